"""Whether the style features mean something: distances between Gram matrices of the same and of other tissues, scans and textures."""

from __future__ import annotations

import numpy as np
import torch

from ..synthesis.scan_quality import blur
from ..synthesis.style_features import StyleFeatures
from ..synthesis.style_refine import gram_distance, grams_each
from ..volume import LabelMap, Volume

TISSUES = ("soft_tissue", "fat", "lungs", "bone", "blood")
SLICES = 8  # of each half
FEWEST = 3000  # voxels
NOISE, BLUR = 15.0, 1.0  # HU, pixels: another texture of the same tissue


def separation(cases: dict[str, tuple[Volume, LabelMap]], features: StyleFeatures) -> dict[str, float]:
    """Median Gram distance, over the mean squared Gram matrix, between …

    ``same``: two halves (odd and even slices) of one tissue of one scan; ``noisier`` and ``softer``: the same with 15 HU of noise, or
    blurred by a pixel, in one of them; ``other_scan``: one tissue in two scans; ``other_tissue``: two tissues of one scan.
    """
    g = torch.Generator().manual_seed(0)
    odd, even, noisier, softer = {}, {}, {}, {}
    for name, (scan, regions) in cases.items():
        chosen = np.linspace(2, len(scan.array) - 3, SLICES).round().astype(int)
        values = {s.name: s.value for s in regions.segments}
        masks = {(name, t): torch.from_numpy(regions.array == values[t]) for t in TISSUES if t in values}
        masks = {key: mask for key, mask in masks.items() if mask[chosen].sum() >= FEWEST}
        hu = torch.from_numpy(scan.array.astype(np.float32))
        other, beside = hu[chosen + 1], {key: mask[chosen + 1] for key, mask in masks.items()}
        odd |= grams_each(features, hu[chosen], {key: mask[chosen] for key, mask in masks.items()})
        even |= grams_each(features, other, beside)
        noisier |= grams_each(features, other + NOISE * torch.randn(other.shape, generator=g), beside)
        softer |= grams_each(features, blur(other, BLUR), beside)
    pairs = {
        "same": [(odd[k], even[k]) for k in odd],
        "noisier": [(odd[k], noisier[k]) for k in odd],
        "softer": [(odd[k], softer[k]) for k in odd],
        "other_scan": [(odd[a], even[b]) for a in odd for b in odd if a[1] == b[1] and a[0] != b[0]],
        "other_tissue": [(odd[a], even[b]) for a in odd for b in odd if a[0] == b[0] and a[1] != b[1]],
    }
    return {kind: float(np.median([_relative(a, b) for a, b in found])) for kind, found in pairs.items() if found}


def _relative(one, other) -> float:
    zero = {layer: torch.zeros_like(matrix) for layer, matrix in other.items()}
    return gram_distance(one, other) / (0.5 * (gram_distance(zero, one) + gram_distance(zero, other)))
