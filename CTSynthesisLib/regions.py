"""Coarse tissue regions of a CT by classical image processing: what training, evaluation and style use where a scan has no masks.

The map is deliberately coarse: at most nine classes with smooth borders and nothing smaller than a millilitre except airways and vessels,
because that is what people paint. It never carries a scan's texture into the condition.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .errors import UnusableInput
from .volume import Geometry, LabelMap, Segment, Volume, resample, to_sitk

WORKING_SPACING = 1.5  # mm, in-plane; slices are kept as they are unless they are thinner than this
REGIONS = (
    Segment(1, "soft_tissue", color=(0.76, 0.41, 0.32)),
    Segment(2, "fat", color=(0.90, 0.86, 0.60)),
    Segment(3, "bone", color=(0.95, 0.93, 0.85)),
    Segment(4, "lungs", color=(0.55, 0.75, 0.90)),
    Segment(5, "lung_vessels", color=(0.35, 0.45, 0.85)),
    Segment(6, "airway", color=(0.70, 0.90, 0.95)),
    Segment(7, "bowel_gas", color=(0.60, 0.70, 0.60)),
    Segment(8, "blood", color=(0.85, 0.20, 0.20)),
)
_VALUE = {segment.name: segment.value for segment in REGIONS}


def segment_regions(volume: Volume) -> LabelMap:
    """Tissue regions of a CT ``volume`` (HU) on its own geometry.

    Contrast-filled blood is told from bone by its homogeneity: regions of 130-550 HU with a local spread below 40 HU that no brighter
    shell (a cortex) surrounds. In plain scans blood stays soft tissue.

    Raises
    ------
    UnusableInput
        If no body is found: less than 100 ml above -500 HU.
    """
    geometry = _working_geometry(volume.geometry)
    image = to_sitk(resample(volume.array.astype(np.float32), volume.geometry, geometry, outside=-1024), geometry)
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 1.0))
    hu = sitk.GetArrayFromImage(image)
    body = _body(smooth, geometry)
    lungs, airway, vessels, gas = _gas_filled(smooth, hu, body, geometry)
    chest = lungs | airway | vessels | gas
    blood, bone = _bright(smooth, hu, body & ~chest, geometry)
    soft = body & ~chest & ~blood & ~bone
    fat = soft & _without_small(_rounded(soft & (smooth > -200) & (smooth < -25), geometry, 2.0), geometry, 2.0)

    labels = np.where(body, _VALUE["soft_tissue"], 0).astype(np.uint8)
    for name, mask in (("fat", fat), ("bone", bone), ("blood", blood), ("lungs", lungs), ("lung_vessels", vessels),
                       ("airway", airway), ("bowel_gas", gas)):
        labels[mask] = _VALUE[name]
    return LabelMap(_smooth_labels(labels, geometry, volume.geometry), volume.geometry, REGIONS)


def _working_geometry(geometry: Geometry) -> Geometry:
    spacing = np.maximum(geometry.spacing, WORKING_SPACING)
    return geometry.with_spacing(spacing)


def _body(smooth: np.ndarray, geometry: Geometry) -> np.ndarray:
    candidate = _opened(smooth > -500, geometry, 4.0)
    body = _largest(candidate)
    if body.sum() * geometry.voxel_ml < 100:
        raise UnusableInput("No body was found in this CT (less than 100 ml above -500 HU); check that its values are Hounsfield units.")
    return _fill_slices(_closed(body, geometry, 4.0), geometry)


def _gas_filled(smooth, hu, body, geometry):
    """Lungs, large airways, vessels inside the lungs, and gas in the bowel."""
    air = body & (smooth < -400)
    lungs = np.zeros_like(air)
    for component in _components(air, geometry, at_least_ml=60):
        if -950 < hu[component].mean() < -450:  # bowel gas has hardly any tissue in it
            lungs |= component
    airway = np.zeros_like(air)
    for component in _components(_opened(air & (smooth < -930), geometry, 2.0), geometry, at_least_ml=3):
        extent = np.ptp(np.nonzero(component)[0]) * geometry.spacing[2]
        slender = extent > 25 and component.sum() * geometry.voxel_ml < 150
        if slender and hu[component].mean() < -930 and _is_central(component, body) and _is_above(component, lungs, geometry):
            airway |= component
    airway = _dilated(airway, geometry, 2.0) & air
    lungs &= ~airway
    hull = _closed(_opened(lungs, geometry, 2.0), geometry, 9.0) & body
    dense = hull & (smooth > -550) & ~airway
    vessels = _without_small(_opened(dense & ~_dilated(~hull, geometry, 4.0), geometry, 1.0), geometry, 0.2)
    lungs = (lungs | (hull & (smooth < -550))) & ~vessels & ~airway
    lungs = _without_small(_closed(lungs, geometry, 2.0) & ~vessels & ~airway & (smooth < -200), geometry, 20)
    gas = _without_small(_opened(air & ~lungs & ~airway, geometry, 1.0), geometry, 1.0)
    return lungs, airway, vessels, gas


def _bright(smooth, hu, inside, geometry):
    """Contrast-filled blood and bone."""
    window = [2, 2, 1]
    image = to_sitk(hu, geometry)
    square = sitk.GetArrayFromImage(sitk.BoxMean(sitk.Square(image), window))
    spread = np.sqrt(np.maximum(square - sitk.GetArrayFromImage(sitk.BoxMean(image, window)) ** 2, 0))
    even = _opened(inside & (smooth > 130) & (smooth < 550) & (spread < 40), geometry, 3.0)
    blood = np.zeros_like(even)
    for core in _components(even, geometry, at_least_ml=2):
        level = np.median(hu[core])
        grown = _dilated(core, geometry, 7.0) & (smooth > 0.6 * level) & inside
        shell = grown & ~_dilated(core, geometry, 1.5)
        if not shell.any() or np.median(smooth[shell]) < 1.05 * level:  # a cortex would be brighter than what it holds
            blood |= grown
    blood &= inside
    bone = inside & ~blood & (smooth > 170)
    bone = _without_small(bone, geometry, 1.0)
    bone = _fill_slices(_closed(bone, geometry, 4.0), geometry) & inside & ~blood & (smooth > -20)
    bone = _without_small(_opened(bone, geometry, 1.0), geometry, 1.0)
    return _without_small(blood, geometry, 2.0), bone


def _smooth_labels(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring the label map to ``target``, each region's membership smoothed so that no stair-step of the working grid remains."""
    best = np.zeros(target.shape, np.float32)
    result = np.zeros(target.shape, np.uint8)
    for value in np.unique(labels):
        sigma = 0.8 if value in (_VALUE["bone"], _VALUE["airway"], _VALUE["lung_vessels"]) else 1.2
        member = sitk.SmoothingRecursiveGaussian(to_sitk((labels == value).astype(np.float32), source), sigma)
        member = resample(sitk.GetArrayFromImage(member), source, target)
        better = member > best
        result[better] = value
        best[better] = member[better]
    return result


def _is_central(mask, body):
    columns = np.nonzero(body.any(axis=(0, 1)))[0]
    centre = np.nonzero(mask)[2].mean()
    return abs(centre - (columns[0] + columns[-1]) / 2) < 0.15 * (columns[-1] - columns[0])


def _is_above(mask, other, geometry):
    """Whether ``mask``'s centroid lies nearer the head than ``other``'s; trachea and bronchi do, gas in stomach and bowel does not."""
    def head_coordinate(region):
        return float(np.mean(np.nonzero(region), axis=1)[::-1] @ geometry.ijk_to_ras[2, :3])

    return bool(other.any()) and head_coordinate(mask) > head_coordinate(other)


def _radius(geometry, mm):
    return [max(int(round(mm / s)), 1 if mm >= 0.5 * s else 0) for s in geometry.spacing]


def _morphology(operation, mask, geometry, mm):
    radius = _radius(geometry, mm)
    image = sitk.ConstantPad(sitk.GetImageFromArray(mask.astype(np.uint8)), radius, radius, 0)
    result = sitk.GetArrayFromImage(operation(image, radius, sitk.sitkBall)) > 0
    return result[tuple(slice(r, n - r) for r, n in zip(radius[::-1], result.shape, strict=True))]


def _rounded(mask, geometry, mm):
    """The mask's borders smoothed by ``mm`` in all three directions; what is thinner vanishes."""
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(to_sitk(mask.astype(np.float32), geometry), mm)) > 0.5


def _opened(mask, geometry, mm):
    return _morphology(lambda image, radius, kernel: sitk.BinaryMorphologicalOpening(image, radius, kernel), mask, geometry, mm)


def _closed(mask, geometry, mm):
    return _morphology(lambda image, radius, kernel: sitk.BinaryMorphologicalClosing(image, radius, kernel), mask, geometry, mm)


def _dilated(mask, geometry, mm):
    return _morphology(lambda image, radius, kernel: sitk.BinaryDilate(image, radius, kernel), mask, geometry, mm)


def _labelled(mask, smallest):
    image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)))
    return sitk.GetArrayFromImage(sitk.RelabelComponent(image, int(max(smallest, 1))))


def _components(mask, geometry, at_least_ml):
    labelled = _labelled(mask, at_least_ml / geometry.voxel_ml)
    return [labelled == value for value in range(1, min(labelled.max(), 40) + 1)]


def _without_small(mask, geometry, ml):
    return _labelled(mask, ml / geometry.voxel_ml) > 0


def _largest(mask):
    return _labelled(mask, 1) == 1


def _fill_slices(mask, geometry):
    """Fill what the mask encloses in each axial slice, and only there: the lungs are open to the top of a cropped scan."""
    axis = geometry.slice_axis
    slices = np.moveaxis(mask, axis, 0).astype(np.uint8)
    filled = np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(one), True)) for one in slices])
    return np.moveaxis(filled, 0, axis) > 0
