"""Structure inside structures that a mask does not say: vessels in lungs, marrow in bone, fat and muscle in a body.

Each is extracted from real and synthetic scans in the same way, by rules that hold for a person, so that the two can be compared.
"""

from __future__ import annotations

import numpy as np

from ..volume import Geometry, resample
from .texture import box_around

GRID = 1.5  # mm, on which vessels are looked for
PLEURA = 3.0  # mm from the border of the lungs where chest wall and fissures would be taken for vessels
VESSEL_CONTRAST = 200.0  # HU above the lung around
SMALLEST_ML = 0.1
DEPTHS = np.arange(7.0)  # mm, edges of the bins of the bone profile
SLAB = 4_000_000  # voxels at a time: the transform of a whole skeleton would need gigabytes
FAT_HU, MUSCLE_HU = (-190, -30), (-29, 150)


def lung_vessels(hu, lungs, spacing) -> dict[str, float]:
    """The branching vessels (and airway walls) inside the lungs.

    A vessel is brighter than the lung around it by 200 HU after a blur of 1 mm, at least 3 mm from the pleura, in pieces of at least
    0.1 ml. White noise has no such pieces; strong coarse noise may have their volume, but not their length: read the two together.

    Parameters
    ----------
    hu, lungs : (k, j, i) arrays
        HU, and the whole lungs (bool); holes along vessels, where a threshold made the mask, are closed.
    spacing : (i, j, k)
        Millimetres.

    Returns
    -------
    dict
        ``volume_fraction`` of the inner lungs; ``length_mm``, how far pieces run across slices (extent along k, averaged over the
        vessels' voxels: a tree that falls apart between slices loses it); ``skeleton_mm_per_ml`` of inner lung; ``branches``, branching
        points of the skeleton per 100 ml of inner lung. NaN where the inner lungs are below 20 ml.
    """
    from scipy.ndimage import convolve, find_objects, gaussian_filter, label
    from skimage.morphology import skeletonize

    hu, lungs = _on_grid(hu, lungs, spacing)
    inner = _inner(lungs)
    inner_ml = inner.sum() * GRID**3 / 1000
    if inner_ml < 20:
        return dict.fromkeys(("volume_fraction", "length_mm", "skeleton_mm_per_ml", "branches"), float("nan"))
    aerated = (inner & (hu < np.median(hu[inner]) + VESSEL_CONTRAST)).astype(np.float32)
    share, around = (gaussian_filter(x, 8.0 / GRID, truncate=2.0) for x in (aerated, aerated * hu))
    vessels = inner & (hu > around / np.maximum(share, 0.02) + VESSEL_CONTRAST)
    pieces, _ = label(vessels, np.ones((3, 3, 3)))
    volume = np.bincount(pieces.ravel())
    kept = volume * GRID**3 / 1000 >= SMALLEST_ML
    kept[0] = False
    vessels = kept[pieces]
    height = np.array([0] + [box[0].stop - box[0].start for box in find_objects(pieces)]) * GRID
    skeleton = skeletonize(vessels)
    near = convolve(skeleton.astype(np.uint8), np.ones((3, 3, 3), np.uint8), mode="constant") - 1
    forks, count = label(skeleton & (near >= 3), np.ones((3, 3, 3)))  # the voxels of one fork touch each other
    found = volume[kept].sum()
    return {
        "volume_fraction": float(found * GRID**3 / 1000 / inner_ml),
        "length_mm": float((height * volume)[kept].sum() / found) if found else 0.0,
        "skeleton_mm_per_ml": float(skeleton.sum() * GRID / inner_ml),
        "branches": float(100 * count / inner_ml),
    }


def bone_profile(hu, bone, spacing) -> np.ndarray:
    """Median HU at depths of 0-1, 1-2, ... 5-6 mm below the surface of the bone, (6,): cortex first, then marrow. NaN below 30 voxels."""
    from scipy.ndimage import distance_transform_edt

    profile = np.full(len(DEPTHS) - 1, np.nan)
    box = box_around(bone, (1, 1, 1))
    if box is None:
        return profile
    hu, bone = np.asarray(hu)[box], bone[box]
    inside = np.pad(bone, 1, mode="edge")  # where the scan ends there is no cortex
    depth = np.zeros(bone.shape, np.float32)
    slab = max(1, SLAB // bone[0].size)
    margin = int(np.ceil(DEPTHS[-1] / spacing[2])) + 1
    for start in range(0, len(bone), slab):
        low, high = max(0, start - margin), min(len(inside), start + slab + margin + 2)
        part = distance_transform_edt(inside[low:high], sampling=spacing[::-1])
        here = depth[start : start + slab]
        here[:] = part[start + 1 - low :, 1:-1, 1:-1][: len(here)]
    depth -= 0.5 * min(spacing)  # the surface lies between voxels
    which = np.digitize(depth[bone], DEPTHS) - 1
    values = hu[bone]
    for n in range(len(profile)):
        if np.count_nonzero(which == n) >= 30:
            profile[n] = np.median(values[which == n])
    return profile


def profile_distance(profile, other) -> float:
    """Mean absolute difference, HU, over the depths that both profiles have."""
    both = np.isfinite(profile) & np.isfinite(other)
    return float(np.abs(np.subtract(profile, other))[both].mean()) if both.any() else float("nan")


def fat_muscle(hu, body, spacing) -> dict[str, float]:
    """Fractions of the body's volume with the HU of ``fat`` (-190 to -30) and of ``muscle`` (-29 to 150; organs included).

    Slices are blurred by 1.5 mm first, so that noise around one of the two is not counted as both.
    """
    from scipy.ndimage import gaussian_filter

    fat = muscle = total = 0
    sigma = 1.5 / np.array([spacing[1], spacing[0]])
    for k in np.nonzero(body.any((1, 2)))[0]:
        inside = body[k].astype(np.float32)
        smooth, share = (gaussian_filter(x, sigma, truncate=2.5)[body[k]] for x in (inside * hu[k], inside))
        smooth /= share  # of the body alone: skin next to air is not fat
        fat += np.count_nonzero((smooth >= FAT_HU[0]) & (smooth <= FAT_HU[1]))
        muscle += np.count_nonzero((smooth > FAT_HU[1]) & (smooth <= MUSCLE_HU[1]))
        total += smooth.size
    return {name: float(count / total) if total else float("nan") for name, count in (("fat", fat), ("muscle", muscle))}


def _on_grid(hu, lungs, spacing):
    """HU after a blur of 1 mm, and the lungs, cropped to them, on an isotropic grid of 1.5 mm."""
    from scipy.ndimage import gaussian_filter

    box = box_around(lungs)
    if box is None:
        return np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), bool)
    hu, lungs = np.asarray(hu[box], np.float32), lungs[box]
    smooth = gaussian_filter(hu, 1.0 / np.array(spacing[::-1], float), truncate=2.5)
    source = Geometry.from_spacing(hu.shape, spacing)
    target = source.with_spacing((GRID,) * 3)
    return resample(smooth, source, target, outside=-1000), resample(lungs.astype(np.uint8), source, target, labels=True) > 0


def _inner(lungs):
    """The lungs without the rind below the pleura; gaps of up to 10 mm are closed before."""
    from scipy.ndimage import distance_transform_edt

    room = int(np.ceil(5 / GRID)) + 1
    wide = distance_transform_edt(~np.pad(lungs, room)) * GRID <= 5
    return (distance_transform_edt(wide) * GRID > 5 + PLEURA)[(slice(room, -room),) * 3]
