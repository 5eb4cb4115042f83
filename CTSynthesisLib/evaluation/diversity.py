"""Diversity of volumes: how alike two of them are, by multi-scale structural similarity in three dimensions (Wang et al. 2003).

A generator that collapsed draws pairs far more alike than real persons are; one that draws noise, pairs less alike.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

WINDOW = (-1000.0, 400.0)  # HU
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363)  # Wang's without the coarsest scale, for volumes of 112³; they are brought to sum to one
SIDE = 112  # voxels along each axis on which volumes are compared
TAPS, SIGMA = 7, 1.5
C1, C2 = 0.01**2, 0.03**2


def prepared(hu: np.ndarray) -> torch.Tensor:
    """A volume (k, j, i) in HU as (1, 1, 112, 112, 112) from 0 to 1."""
    low, high = WINDOW
    x = torch.from_numpy(np.ascontiguousarray(hu)).float()[None, None]
    return ((F.adaptive_avg_pool3d(x, SIDE) - low) / (high - low)).clamp(0, 1)


@torch.inference_mode()
def ms_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Multi-scale structural similarity of two :func:`prepared` volumes; 1 for a volume with itself."""
    result = 1.0
    for level, weight in enumerate(WEIGHTS):
        if level:
            a, b = F.avg_pool3d(a, 2), F.avg_pool3d(b, 2)
        mean_a, mean_b = _blurred(a), _blurred(b)
        of_a, of_b, both = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2, _blurred(a * b) - mean_a * mean_b
        similar = (2 * both + C2) / (of_a + of_b + C2)
        if level == len(WEIGHTS) - 1:
            similar = similar * (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        result *= max(float(similar.mean()), 0.0) ** (weight / sum(WEIGHTS))
    return result


def _blurred(x):
    taps = torch.exp(-0.5 * ((torch.arange(TAPS) - TAPS // 2) / SIGMA) ** 2)
    taps = taps / taps.sum()
    for shape in ((TAPS, 1, 1), (1, TAPS, 1), (1, 1, TAPS)):
        x = F.conv3d(x, taps.reshape(1, 1, *shape))
    return x


def pairwise(volumes: list[np.ndarray], *, at_most: int = 36, seed: int = 0) -> list[float]:
    """MS-SSIM of pairs of ``volumes`` (k, j, i) in HU: of all, or of ``at_most`` random ones."""
    pairs = list(combinations(range(len(volumes)), 2))
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:at_most]
    ready = [prepared(hu) for hu in volumes]
    return [ms_ssim(ready[pairs[n][0]], ready[pairs[n][1]]) for n in chosen]
