"""Fidelity to the mask: does a CT show the regions that were asked for? Judged by a network that was trained on real scans only.

The re-segmenter (:mod:`CTSynthesisLib.networks.segmenter`) never saw a generator's output. Where it finds a class in the real scan (Dice of
at least 0.8), it may be trusted to look for it in the synthetic one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UnusableInput
from ..modelstore import load_card, load_weights
from ..networks.segmenter import WORKING_SPACING, Segmenter, SegmenterConfig, windows
from ..regions import REGIONS
from ..synthesis.mask_cgan import autocast
from ..volume import AIR_HU, Geometry, LabelMap, Volume, reorder, resample, restore

COUNTS_FROM = 0.8  # Dice on the real scan from which on a class counts
SLAB, MARGIN = 64, 24  # slices of the working grid worked through at once, and what they see beyond


def resegment(volume: Volume, *, model: str = "segmenter") -> LabelMap:
    """The regions (``regions.REGIONS``) that the network sees in ``volume`` (HU), on the volume's own geometry."""
    hu, source, target = on_working_grid(volume)
    share = class_shares(load_segmenter(model), hu)
    share = np.pad(share, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")  # the grids end at slightly different places
    padded = target.crop((-1, -1, -1), tuple(n + 2 for n in target.shape))
    best, result = np.zeros(source.shape, np.float32), np.zeros(source.shape, np.uint8)
    for value, one in enumerate(share):
        if one.max() > 1 / len(share):
            there = resample(one, padded, source)
            better = there > best
            result[better], best[better] = value, there[better]
    axes, flips = volume.geometry.anatomical_axes
    return LabelMap(np.ascontiguousarray(restore(result, axes, flips)), volume.geometry, REGIONS)


def dice(a: LabelMap, b: LabelMap, classes=None) -> dict[str, float]:
    """Dice of each class, by the segments' names, on one grid; NaN for a class that neither map shows.

    ``classes`` are the names to compare, by default the regions that either map has a segment for.
    """
    masks = [{segment.name: labelmap.array == segment.value for segment in labelmap.segments} for labelmap in (a, b)]
    result = {}
    for name in classes or [region.name for region in REGIONS if any(region.name in m for m in masks)]:
        one, other = (m.get(name, np.zeros(labelmap.array.shape, bool)) for m, labelmap in zip(masks, (a, b), strict=True))
        both = int(one.sum()) + int(other.sum())
        result[name] = 2 * int((one & other).sum()) / both if both else float("nan")
    return result


def fidelity(synthetic: Volume, real: Volume, asked: LabelMap, *, model: str = "segmenter") -> dict:
    """Dice between what was ``asked`` for (regions, on the scans' grid) and what the network finds in the synthetic and the real scan.

    Returns
    -------
    dict
        ``real`` and ``synthetic``: Dice by class; ``counted``: the classes whose Dice on the real scan is at least 0.8; ``ratio``: mean
        Dice synthetic over mean Dice real of those, NaN if there are none.
    """
    on_real, on_synthetic = (dice(resegment(volume, model=model), asked) for volume in (real, synthetic))
    counted = [name for name, value in on_real.items() if value >= COUNTS_FROM]
    ratio = sum(on_synthetic[name] for name in counted) / sum(on_real[name] for name in counted) if counted else float("nan")
    return {"real": on_real, "synthetic": on_synthetic, "counted": counted, "ratio": ratio}


@lru_cache(maxsize=1)
def load_segmenter(model: str = "segmenter") -> Segmenter:
    """The re-segmenter by its name in the model store or its file, ready to use on the CPU.

    Raises
    ------
    UnusableInput
        If the model is missing, damaged or of another kind.
    """
    card = load_card(model)
    if card.kind != "segmenter":
        raise UnusableInput(f"The model '{card.name}' is no re-segmenter; choose 'segmenter'.")
    network = Segmenter(SegmenterConfig(**card.settings))
    network.load_state_dict({name: tensor for name, tensor in load_weights(card).items() if not name.startswith("features.")})
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)


def on_working_grid(volume: Volume, spacing: float = WORKING_SPACING) -> tuple[np.ndarray, Geometry, Geometry]:
    """HU as an axial stack (k, j, i) int16 of cubic voxels of ``spacing`` mm; the volume's geometry as an axial stack, and the stack's."""
    axes, flips = volume.geometry.anatomical_axes
    source = volume.geometry.reordered(axes, flips)
    target = source.with_spacing([spacing] * 3)
    hu = resample(np.ascontiguousarray(reorder(volume.array, axes, flips), np.int16), source, target, outside=AIR_HU)
    return hu, source, target


@torch.inference_mode()
def class_shares(network: Segmenter, hu: np.ndarray) -> np.ndarray:
    """Probabilities (C, k, j, i) float32 of the classes on the working grid, slab by slab."""
    result = np.empty((network.config.classes, *hu.shape), np.float32)
    for window, inner, slab in slabs(hu, network.config.stride):
        with autocast("cpu"):
            scores = network(windows(slab))
        result[:, window] = scores.softmax(1)[0, :, inner, : hu.shape[1], : hu.shape[2]].numpy()
    return result


def slabs(hu: np.ndarray, stride: int):
    """The parts in which a volume goes through the network: (slices of the volume, where they lie in the slab, slab (1, D, H, W))."""
    for start in range(0, len(hu), SLAB):
        stop = min(start + SLAB, len(hu))
        first, last = max(start - MARGIN, 0), min(stop + MARGIN, len(hu))
        slab = torch.from_numpy(np.ascontiguousarray(hu[first:last])).float()[None]
        extra = [-n % stride for n in slab.shape[1:]]
        slab = F.pad(slab[None], (0, extra[2], 0, extra[1], 0, extra[0]), mode="replicate")[0]
        yield slice(start, stop), slice(start - first, stop - first), slab
