"""A nodule put in and taken out without a network: what the nodule experiment uses where no injector is at hand.

Put in: the parametric nodule, blended by its occupancy, softened as a scanner would, with the scan's own grain under it kept.
Taken out: a ball is filled with tissue of the same scan from nearby, with a soft seam.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..synthesis.nodule_shape import Nodule, render
from ..volume import Volume

NAME = "parametric composite"
SOFT_MM = 0.6  # sigma of the scanner's blur, added to what is rendered
GRAIN_MM = 2.0  # what is finer than this stays from the scan
GRAIN_HU = 60.0  # and is no vessel's edge
SEAM_MM = 3.0
BEYOND_MM = 3.0  # a marked nodule has faint rims


def inject(volume: Volume, centre, nodule: Nodule) -> Volume:
    """``volume`` (HU) with ``nodule`` at ``centre`` (RAS mm); a new volume on the same grid."""
    geometry = volume.geometry
    at = np.linalg.solve(geometry.ijk_to_ras, [*centre, 1.0])[2::-1]
    rendered = render(nodule, geometry.shape, geometry.spacing, at)
    share = _blurred(rendered.occupancy, geometry, SOFT_MM)
    hu = volume.array.astype(np.float32)
    grain = np.clip(hu - _blurred(hu, geometry, GRAIN_MM), -GRAIN_HU, GRAIN_HU)
    filled = np.where(rendered.occupancy > 0, rendered.hu, 0)
    weight = _blurred((rendered.occupancy > 0).astype(np.float32), geometry, SOFT_MM)
    inside = _blurred(filled, geometry, SOFT_MM) / np.maximum(weight, 1e-3)
    mixed = np.where(share > 1e-3, (1 - share) * hu + share * np.maximum(inside + grain, hu), hu)  # a vessel in glass stays
    return Volume(np.rint(mixed).astype(np.int16), geometry)


def erase(volume: Volume, centre, diameter_mm: float) -> Volume:
    """``volume`` (HU) without what lies in a ball of ``diameter_mm`` about ``centre`` (RAS mm); a new volume on the same grid.

    The filling is read from the place nearby whose surroundings are most like the nodule's, so that pleura continues as pleura.

    Raises
    ------
    UnusableInput
        If ``volume`` is too small to hold another such place.
    """
    geometry, hu = volume.geometry, volume.array.astype(np.float32)
    at = np.linalg.solve(geometry.ijk_to_ras, [*centre, 1.0])[2::-1]
    steps, size = geometry.spacing[::-1], np.array(hu.shape)
    radius = diameter_mm / 2 + BEYOND_MM
    distance = np.sqrt(sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(hu.shape), at, steps, strict=True)))
    weight = np.clip((radius + SEAM_MM - distance) / SEAM_MM, 0, 1)
    inside, rim = np.argwhere(weight > 0), np.argwhere((distance > radius) & (distance < radius + 2 * SEAM_MM))
    best, filling = np.inf, None
    for direction in np.argwhere(np.ones((3, 3, 3))) - 1:
        if direction.any():
            shift = np.rint(direction / np.linalg.norm(direction) * 2 * (radius + SEAM_MM) / steps).astype(int)
            there = inside + shift, rim + shift
            if min(t.min() for t in there) < 0 or any((t >= size).any() for t in there):
                continue
            unlike = np.abs(_limited(hu[tuple(rim.T)]) - _limited(hu[tuple(there[1].T)])).mean()
            if unlike < best:
                best, filling = unlike, hu[tuple(there[0].T)]
    if filling is None:
        raise UnusableInput(f"There is no place beside the nodule of {diameter_mm:.0f} mm whose lung could fill it; take another scan.")
    share = weight[tuple(inside.T)]
    hu[tuple(inside.T)] = (1 - share) * hu[tuple(inside.T)] + share * filling
    return Volume(np.rint(hu).astype(np.int16), geometry)


def _limited(hu):
    """Between bones' brightness and soft tissue's makes no difference here."""
    return np.clip(hu, -1000, 100)


def _blurred(array, geometry, mm):
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(geometry.spacing.tolist())
    return sitk.GetArrayFromImage(sitk.DiscreteGaussian(image, [mm**2] * 3, 16, 0.02, True))
