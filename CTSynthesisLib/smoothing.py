"""Smoothing, and coarser grids, for images that may be only a few voxels deep."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

FEWEST = 4  # voxels along an axis that the recursive filter needs


def smoothed(image: sitk.Image, mm) -> sitk.Image:
    """A scalar ``image`` smoothed by ``mm``, or by so much along its axes (x, y, z); not along axes of fewer than four voxels, or by 0."""
    sigma = np.broadcast_to(np.asarray(mm, float), 3)
    if min(image.GetSize()) >= FEWEST and sigma.min() > 0:
        return sitk.SmoothingRecursiveGaussian(image, sigma.tolist())
    for axis, count in enumerate(image.GetSize()):
        if count >= FEWEST and sigma[axis] > 0:
            image = sitk.RecursiveGaussian(image, float(sigma[axis]), direction=axis)
    return image


def coarse_grid(geometry, mm: float):
    """The grid over just the same box with voxels of ``mm`` or little more; where they measure more, they are kept."""
    box = np.array(geometry.shape[::-1]) * geometry.spacing
    count = np.where(geometry.spacing >= mm, geometry.shape[::-1], np.maximum(np.floor(box / mm + 1e-6), 1))
    return geometry.with_spacing(box / count)
