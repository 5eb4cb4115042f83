"""The body outline, where the segmentation has none."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..anatomy import Understood
from ..smoothing import coarse_grid, smoothed
from ..volume import Geometry, LabelMap, reorder, resample, restore, to_sitk

COARSE = 4.0  # mm; the outline is smooth, so it is computed on a coarse grid
BRIDGE = 70.0  # mm: gaps up to twice this between segments belong to the body
MARGIN = 28.0  # mm of chest or abdominal wall around the outermost segments
SMALL_FIELD = 300.0  # mm: a grid no wider than this lies inside the body
WELL_COVERED = 0.9  # share of the segments within the fitted anatomy's body
OUTLINES = ("body", "skin", "subcutaneous_fat", "fat", "soft_tissue", "body_trunc", "torso_fat")


def derive_outline(labelmap: LabelMap, understood: tuple[Understood, ...], *, seed: int) -> tuple[np.ndarray, str]:
    """A body (k, j, i) bool around the segments of ``labelmap``, and one sentence that says what was assumed.

    A grid that is nowhere wider than 30 cm in-plane is taken to lie inside the body. Otherwise it is the body of the standard anatomy that
    fits the segments; where that does not reach nine tenths of them, the segments are closed over 70 mm and widened by 28 mm.
    """
    inside, geometry = labelmap.array > 0, labelmap.geometry
    axes, flips = geometry.anatomical_axes
    axial = geometry.reordered(axes, flips)
    if max((np.array(axial.shape[::-1]) * axial.spacing)[:2]) <= SMALL_FIELD:
        return np.ones(geometry.shape, bool), (
            "The segmentation has no body outline and its grid is no wider than 30 cm, so the whole grid was taken to lie inside the body."
        )
    from .standard_anatomy import outline_of, place

    placed = place(np.ascontiguousarray(reorder(labelmap.array, axes, flips)), understood, axial, seed=seed, outline=False)
    if placed is not None:
        body = restore(outline_of(placed, axial), axes, flips)
        if body[inside].mean() >= WELL_COVERED:
            return body | inside, (
                "The segmentation has no body outline; that of a standard anatomy fitted to its segments was taken (paint a segment named "
                "'body' to set it)."
            )
    return _widened(inside, geometry) | inside, (
        "The segmentation has no body outline; one was derived 28 mm around its segments (paint a segment named 'body' to set it)."
    )


def _widened(inside: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The segments closed over ``BRIDGE`` and widened by ``MARGIN``."""
    coarse = coarse_grid(geometry, COARSE)
    mask = resample(inside.astype(np.float32), geometry, coarse) > 0.3
    pad = [int(np.ceil((BRIDGE + MARGIN) / s)) + 1 for s in coarse.spacing]
    image = sitk.ConstantPad(to_sitk(mask.astype(np.uint8), coarse), pad, pad, 0)
    bridged = _distance(image) < BRIDGE
    deep = sitk.SignedMaurerDistanceMap(sitk.Not(bridged), squaredDistance=False, useImageSpacing=True)
    outline = sitk.Crop(sitk.Cast(deep > BRIDGE - MARGIN, sitk.sitkFloat32), pad, pad)
    outline = smoothed(outline, 6.0)
    return resample(sitk.GetArrayFromImage(outline), coarse, geometry) > 0.5


def _distance(image):
    return sitk.SignedMaurerDistanceMap(image > 0, squaredDistance=False, useImageSpacing=True)
