"""Whether a scan is one volume: neighbours in all three planes, and the borders of the blocks it was made of."""

from __future__ import annotations

import numpy as np

TILE = 16  # voxels; over a tile of 256, grain averages out and a step between blocks does not
NEAR = 8  # voxels from a border, where the interior is like what lies at the border
LARGEST_STEP = 20.0  # HU


def neighbour_change(hu, mask) -> dict[str, float]:
    """Mean absolute difference, HU, of neighbouring voxels that are both in ``mask``, along each axis: ``i``, ``j`` and ``k``.

    ``k`` compares neighbouring slices: white noise in every slice makes it as large as ``i``, slices that were made one by one larger.
    """
    return {name: _mean(np.abs(_steps(hu, mask, axis))) for name, axis in (("i", 2), ("j", 1), ("k", 0))}


def gradient_energy_ratio(hu, mask, spacing) -> float:
    """Mean squared slope between slices over that in the slice (mean of both axes), (HU/mm)^2; pairs of voxels inside ``mask``."""
    k, j, i = (_mean(np.square(_steps(hu, mask, axis) / spacing[2 - axis])) for axis in range(3))
    return k / ((i + j) / 2) if i + j > 0 else float("nan")


def border_jump(hu, borders, mask) -> float:
    """The step across the borders of blocks, HU, beyond that across planes inside the blocks, which anatomy and grain make.

    Each step is the difference across a border averaged over a tile of 16 x 16 voxels, less the mean of those two voxels before and
    behind it (so a slope is no step). Returned is their mean size at the borders less that within 8 voxels of them: about zero without
    a step, negative as often as positive; with one, the step less about the grain that is left in a tile (1-2 HU in a soft kernel).
    Steps are cut at 20 HU, for edges of organs are larger.

    Parameters
    ----------
    hu, mask : (k, j, i) arrays
        HU and bool; an even part of the body.
    borders : dict of axis to positions
        Axis of the array (0 slices, 1 rows, 2 columns) and the indices p whose border lies between p - 1 and p.
    """
    excess, tiles = 0.0, 0
    for axis, positions in borders.items():
        steps = _tile_steps(np.moveaxis(np.asarray(hu), axis, 0), np.moveaxis(mask, axis, 0))
        here = np.array([p - 1 for p in positions if 0 < p <= len(steps)], int)
        near = np.setdiff1d(here[:, None] + np.arange(-NEAR, NEAR + 1), here[:, None] + (-2, 0, 2))  # at 2, the border is compared with
        at_border, inside = (np.abs(x[np.isfinite(x)]) for x in (steps[here], steps[near[(near >= 0) & (near < len(steps))]]))
        if len(at_border) and len(inside):
            excess += len(at_border) * (at_border.mean(dtype=np.float64) - inside.mean(dtype=np.float64))
            tiles += len(at_border)
    return float(excess / tiles) if tiles else float("nan")


def _steps(hu, mask, axis):
    """Differences to the next voxel along an axis, of the voxels that are in the mask as the next one is."""
    hu, mask = (np.moveaxis(np.asarray(x), axis, 0) for x in (hu, mask))
    both = mask[1:] & mask[:-1]
    return hu[1:][both].astype(np.float32) - hu[:-1][both]


def _tile_steps(hu, mask):
    """(planes - 1, rows, columns) steps to the next plane (first axis), a tile each; NaN where less than half of a tile counts."""
    rows, columns = (n // TILE for n in hu.shape[1:])
    steps = np.full((max(0, len(hu) - 1), rows, columns), np.nan, np.float32)
    for n in range(len(steps)):
        both = mask[n] & mask[n + 1]
        step = np.where(both, hu[n + 1].astype(np.float32) - hu[n], 0)
        total, count = (x[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE).sum((1, 3)) for x in (step, both))
        np.divide(total, count, out=steps[n], where=count >= TILE**2 / 2)
    around = np.full_like(steps, np.nan)
    around[2:-2] = (steps[:-4] + steps[4:]) / 2
    return np.clip(steps - around, -LARGEST_STEP, LARGEST_STEP)


def _mean(values):
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")
