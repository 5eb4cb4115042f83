"""Hounsfield values of structures: how far a synthetic scan's distribution is from a real one's."""

from __future__ import annotations

import numpy as np

AT_LEAST = 20  # voxels; of fewer, a spread says nothing
LOWEST, HIGHEST = -1024, 3071  # HU, the range of a 12-bit scanner


def per_structure(synthetic, real, masks) -> dict[str, dict[str, float]]:
    """:func:`compare` inside each structure.

    Parameters
    ----------
    synthetic, real : (k, j, i) arrays
        HU.
    masks : dict of name to (k, j, i) bool array
    """
    return {name: compare(np.asarray(synthetic)[mask], np.asarray(real)[mask]) for name, mask in masks.items()}


def compare(synthetic, real) -> dict[str, float]:
    """Two samples of HU, of the same voxels or of two persons' (then their sizes may differ).

    Returns
    -------
    dict
        ``median_error`` and ``mean_error`` (HU, synthetic minus real, signed), ``spread_ratio`` (standard deviation, synthetic over
        real), ``wasserstein`` (HU a voxel has to move for one histogram to become the other) and ``voxels`` (of the real sample).
        NaN where either sample has fewer than 20 voxels.
    """
    from scipy.stats import wasserstein_distance

    voxels = int(np.size(real))
    if min(voxels, np.size(synthetic)) < AT_LEAST:
        return {"median_error": np.nan, "mean_error": np.nan, "spread_ratio": np.nan, "wasserstein": np.nan, "voxels": voxels}
    values = np.arange(LOWEST, HIGHEST + 1)
    a, b = _histogram(synthetic), _histogram(real)  # 1 HU wide: millions of voxels become 4096 weights
    (median_a, mean_a, spread_a), (median_b, mean_b, spread_b) = _summary(a, values), _summary(b, values)
    return {
        "median_error": median_a - median_b,
        "mean_error": mean_a - mean_b,
        "spread_ratio": spread_a / spread_b if spread_b > 0 else np.nan,
        "wasserstein": float(wasserstein_distance(values, values, a, b)),
        "voxels": voxels,
    }


def _histogram(hu):
    hu = np.clip(np.rint(hu), LOWEST, HIGHEST).astype(np.int32) - LOWEST
    return np.bincount(hu.ravel(), minlength=HIGHEST - LOWEST + 1)


def _summary(counts, values):
    """Median, mean and standard deviation of a histogram."""
    total, below = counts.sum(), np.cumsum(counts)
    middle = [values[np.searchsorted(below, rank)] for rank in ((total + 1) // 2, total // 2 + 1)]
    mean = (counts * values).sum() / total
    return float(np.mean(middle)), float(mean), float(np.sqrt((counts * (values - mean) ** 2).sum() / total))
