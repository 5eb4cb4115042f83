"""Where nodules go and where they are: inside the lungs, at random places, and grown from a click."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import UnusableInput
from ..regions import REGIONS, segment_regions, shown_ml
from ..smoothing import coarse_grid, smoothed
from ..volume import Geometry, LabelMap, Volume, distance_mm, resample, to_sitk
from .nodule_shape import LARGEST_MM, Nodule
from .nodule_voi import bounds, cut, gaussian, thin

VALUE = {segment.name: segment.value for segment in REGIONS}
LEAST_LUNG_ML = 50.0  # below it a CT shows no lungs worth the name
COARSE_MM = 3.0
ABOVE_LUNG, DENSE_HU = 220.0, (-650.0, -420.0)  # what is so much denser than the lung's median is vessel; that border lies between these
CONTRAST_HU = 120.0  # of a nodule above the lung around it; less is not grown from a click
VESSELS_CUT_MM = (1.5, 3.0, 5.0, 0.0)  # radius; last nothing, for nodules that are thin themselves
INSIDE = 0.8  # least share of a randomly placed nodule that lies in lung
TRIES = 400


def lungs_of(volume: Volume) -> np.ndarray:
    """Labels (k, j, i) uint8 of lung and of the vessels in it, with the values of the scan's regions; 0 elsewhere.

    The regions are found on a grid of 3 mm, which takes seconds where the scan's own takes half a minute; where they end, the scan's own
    voxels decide.

    Raises
    ------
    UnusableInput
        If the CT shows no lungs.
    """
    geometry = coarse_grid(volume.geometry, COARSE_MM)
    regions = segment_regions(Volume(resample(volume.array, volume.geometry, geometry, outside=-1024), geometry)).array
    lung = is_lung(regions)
    ml = lung.sum() * geometry.voxel_ml
    if ml < shown_ml(LEAST_LUNG_ML, geometry):
        raise UnusableInput(f"No lungs were found in this CT ({ml:.0f} ml); choose a chest CT, or insist with --anywhere.")
    spacing, reach = geometry.spacing, 1.1 * geometry.spacing.max()
    depth = lung * 1 + (distance_mm(lung, spacing) < reach) + (distance_mm(~lung, spacing) > reach)  # 1 beside it, 2 at its rim, 3 within
    depth = resample(np.where(regions == VALUE["airway"], 0, depth).astype(np.uint8), geometry, volume.geometry, labels=True)
    even = sitk.GetArrayFromImage(smoothed(to_sitk(volume.array.astype(np.float32), volume.geometry), 0.8))
    dense = float(np.clip(np.median(even[depth > 2]) + ABOVE_LUNG, *DENSE_HU)) if (depth > 2).any() else DENSE_HU[0]
    labels = np.where((depth > 0) & (even < dense), VALUE["lungs"], 0).astype(np.uint8)
    labels[(depth > 2) & (even >= dense)] = VALUE["lung_vessels"]
    return labels


def is_lung(labels: np.ndarray) -> np.ndarray:
    return (labels == VALUE["lungs"]) | (labels == VALUE["lung_vessels"])


def check_place(labels: np.ndarray, spacing, at) -> None:
    """Refuse a voxel ``at`` (k, j, i) outside the lungs.

    Raises
    ------
    UnusableInput
        With the distance to the nearest lung.
    """
    k, j, i = (int(round(a)) for a in at)
    if not all(0 <= a < n for a, n in zip((k, j, i), labels.shape, strict=True)):
        size = ",".join(str(n - 1) for n in labels.shape[::-1])
        raise UnusableInput(f"Voxel {i},{j},{k} lies outside the volume, whose last voxel is {size}; give I,J,K within it.")
    lung = is_lung(labels)
    if lung[k, j, i]:
        return
    steps = np.asarray(spacing)[::-1]
    nearest = min((float((((np.argwhere(lung[s]) - (j, i)) * steps[1:]) ** 2).sum(1).min() + ((s - k) * steps[0]) ** 2)
                   for s in np.nonzero(lung.any((1, 2)))[0]), default=np.inf) ** 0.5  # fmt: skip
    raise UnusableInput(f"Voxel {i},{j},{k} lies {nearest:.0f} mm outside the lung; choose a place in the lung, or insist with --anywhere.")


def random_places(labels: np.ndarray, spacing, nodules: list[Nodule], seed: int) -> list[tuple[int, int, int]]:
    """A voxel (k, j, i) for each nodule, so that it lies in lung, mostly, and touches no other.

    Raises
    ------
    UnusableInput
        If the lungs have no room for them.
    """
    rng = np.random.default_rng((seed, 3))
    lung, steps = is_lung(labels), np.asarray(spacing)[::-1]
    candidates = np.argwhere(labels == VALUE["lungs"])
    ball = rng.normal(size=(80, 3))
    ball *= (rng.random(80) ** (1 / 3) / np.linalg.norm(ball, axis=1))[:, None]
    chosen: list[tuple[int, int, int]] = []
    for nodule in nodules:
        for _ in range(TRIES):
            at = candidates[rng.integers(len(candidates))]
            points = np.rint(at + ball * nodule.diameter_mm / 2 / steps).astype(int)
            points = np.where(labels.shape * steps < nodule.diameter_mm, at, points)  # a few slices show a section
            within = ((points >= 0) & (points < labels.shape)).all(1)
            share = lung[tuple(points[within].T)].sum() / len(points)
            apart = [np.linalg.norm((at - other) * steps) - (nodule.diameter_mm + n.diameter_mm) / 2
                     for other, n in zip(chosen, nodules, strict=False)]  # fmt: skip
            if share >= INSIDE and min(apart, default=np.inf) > 4:
                chosen.append(tuple(int(a) for a in at))
                break
        else:
            raise UnusableInput(
                f"The lungs have no room for {len(nodules)} such nodules (found places for {len(chosen)}); ask for fewer or smaller ones."
            )
    return chosen


def masks_of(labelmap: LabelMap) -> list[np.ndarray]:
    """Each connected part of what is segmented, as a bool array (k, j, i)."""
    image = sitk.GetImageFromArray((labelmap.array > 0).astype(np.uint8))
    labelled = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(image, True)))
    return [labelled == value for value in range(1, labelled.max() + 1)]


def grown(array: np.ndarray, labels: np.ndarray, geometry: Geometry, at, diameter_mm: float | None) -> np.ndarray:
    """The nodule at voxel ``at`` (k, j, i) as a mask of the whole volume: a ball of ``diameter_mm``, or grown where none is given.

    It grows over what is brighter than half-way between the lung around and the brightest voxel near the click, after thin parts (vessels)
    have been cut off.

    Raises
    ------
    UnusableInput
        If nothing there stands out from the lung, or it goes on beyond 30 mm.
    """
    spacing = geometry.spacing
    low, count = bounds(array.shape, spacing, at, 64)
    hu, part = cut(array, low, count).astype(np.float32), cut(labels, low, count)
    k, j, i = ((np.arange(n) + a - c) * s for n, a, c, s in zip(count, low, at, spacing[::-1], strict=True))
    away = np.sqrt(k[:, None, None] ** 2 + j[:, None] ** 2 + i**2)
    mask = away <= diameter_mm / 2 if diameter_mm else _region(hu, part, spacing, away, at)
    whole = np.zeros(array.shape, bool)
    begin = np.maximum(low, 0)
    end = np.minimum(low + count, array.shape)
    whole[tuple(map(slice, begin, end))] = mask[tuple(slice(b - a, e - a) for a, b, e in zip(low, begin, end, strict=True))]
    return whole


def _region(hu, part, spacing, away, at):
    even = gaussian(hu, spacing, 0.7)
    lung = hu[(part == VALUE["lungs"]) & (away > 4) & (away < 30)]
    base = float(np.median(lung)) if lung.size > 100 else -850.0
    peak = float(np.percentile(even[away <= max(3.0, max(spacing))], 90))
    where = "{2:.0f},{1:.0f},{0:.0f}".format(*at)
    if peak - base < CONTRAST_HU:
        raise UnusableInput(
            f"Nothing at voxel {where} stands out from the lung ({peak:.0f} against {base:.0f} HU); click the nodule's middle, "
            "or give its size with --diameter, or its outline with --mask."
        )
    bright = (even > (min(peak, 50.0) + base) / 2) & (away < LARGEST_MM)
    middle, mask = away <= max(3.0, max(spacing)), None
    for cut_mm in VESSELS_CUT_MM:  # thicker and thicker parts are cut off, until what is left is no longer than a nodule
        candidate = bright & ~thin(bright, spacing, cut_mm) if cut_mm else bright
        labelled = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(candidate.astype(np.uint8))))
        near = labelled[middle & candidate]
        if not near.size:
            continue
        mask = labelled == np.bincount(near).argmax()
        if away[mask].max() < LARGEST_MM - 3:
            return bright & (distance_mm(mask, np.asarray(spacing)) <= max(2.0, 1.01 * max(spacing)))  # with what opening took
    if mask is not None:
        raise UnusableInput(
            f"What is bright at voxel {where} goes on beyond {LARGEST_MM:.0f} mm, as a vessel or the chest wall does; "
            "give the nodule's size with --diameter, or its outline with --mask."
        )
    raise UnusableInput(f"Nothing at voxel {where} stands out from the lung; give the nodule's outline with --mask.")
