"""Coarse tissue regions of a CT by classical image processing: what training, evaluation and style use where a scan has no masks.

The map is deliberately coarse: eight classes with smooth borders and nothing smaller than a millilitre except airways and vessels,
because that is what people paint. It never carries a scan's texture into the condition.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .errors import UnusableInput
from .smoothing import coarse_grid, smoothed
from .volume import Geometry, LabelMap, Segment, Volume, reorder, resample, restore, to_sitk, without_padding

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
LUNG_HU = (-930, -450)  # median of air-filled lung; outside air and bowel gas are emptier, foam and stool are rarely that large
VESSEL_CONTRAST = 140  # HU above the lung around it; a vessel of 2 mm still shows as much at the working grid
SMALLEST_ML = 1.0
_UNDECIDED = 255
_VALUE = {segment.name: segment.value for segment in REGIONS}


def segment_regions(volume: Volume) -> LabelMap:
    """Tissue regions of a CT ``volume`` (HU) on its own geometry.

    Lungs may be cut by any border of the volume. Contrast-filled blood is told from bone by its homogeneity and by the brighter shell
    (a cortex) that bone has; in plain scans blood stays soft tissue. Enhanced kidneys, liver and spleen are soft tissue.

    Raises
    ------
    UnusableInput
        If no body is found: less than 100 ml above -500 HU.
    """
    axes, flips = volume.geometry.anatomical_axes  # from here on arrays run foot to head, front to back, right to left
    target = volume.geometry.reordered(axes, flips)
    geometry = coarse_grid(target, WORKING_SPACING)
    hu = resample(np.ascontiguousarray(reorder(without_padding(volume.array), axes, flips), np.float32), target, geometry, outside=-1024)
    smooth = _gaussian(hu, geometry, 1.0)
    body = _body(smooth, geometry)
    lungs, airway, gas = _gas_filled(smooth, body, geometry)
    contrast, hull = _vessel_contrast(_gaussian(hu, geometry, 0.7), lungs, airway | gas, body, geometry)
    chest = lungs | airway | gas | (hull & (contrast > VESSEL_CONTRAST))
    blood, bone = _bright(hu, smooth, body & ~chest, geometry)
    soft = body & ~chest & ~blood & ~bone
    fat = soft & _rounded(soft & (smooth > -200) & (smooth < -25), geometry, 2.0)

    labels = np.where(body, _VALUE["soft_tissue"], 0).astype(np.uint8)
    for name, mask in (("fat", fat), ("bone", bone), ("blood", blood), ("lungs", chest), ("airway", airway), ("bowel_gas", gas)):
        labels[mask] = _VALUE[name]
    labels = _without_specks(_smooth_labels(_without_specks(labels, geometry), geometry, target), target)
    inside = (labels == _VALUE["lungs"]) & (resample(hull.astype(np.float32), geometry, target) > 0.5)
    contrast = resample(contrast, geometry, target, outside=-1024)
    labels[_vessels(contrast, inside, target)] = _VALUE["lung_vessels"]
    labels = _without_specks(labels, target)
    return LabelMap(np.ascontiguousarray(restore(labels, axes, flips)), volume.geometry, REGIONS)


def _body(smooth, geometry):
    """What lies inside the skin; lungs that the image's border cuts open included."""
    tissue = _without_small(_opened(smooth > -500, geometry, 4.0), geometry, 30.0)
    cut = np.zeros_like(tissue)
    for space in _components(~tissue, geometry, at_least_ml=5):
        box = _box(space, geometry, 6.0)
        space = space[box]
        core = _eroded(space, geometry, 3.0)
        if core.any() and LUNG_HU[0] < np.median(smooth[box][core]) < LUNG_HU[1]:
            wall = _dilated(space, geometry, 4.0) & ~space
            if wall.any() and (tissue[box] & wall).sum() > 0.9 * wall.sum():  # the foam of a couch lies in a thin shell, not in tissue
                cut[box] |= space
    body = _largest(tissue | cut)
    least = min(shown_ml(100.0, geometry), body.size * geometry.voxel_ml / 10)  # a scan cut out around an organ may hold less
    if body.sum() * geometry.voxel_ml < least:
        raise UnusableInput(
            f"No body was found in this CT (less than {least:.3g} ml above -500 HU); check that its values are Hounsfield units."
        )
    body = _fill_slices(_closed(body, geometry, 4.0))
    return body & ~(_dilated(~body, geometry, 6.0) & (smooth < -940))  # no air in the folds of the skin


def _gas_filled(smooth, body, geometry):
    """Lungs (without their dense vessels), large airways, and gas in the bowel."""
    air = body & (smooth < -400)
    even = _gaussian(np.where(air, smooth, 0), geometry, 2.0)
    empty = _opened(air & (even < LUNG_HU[0] - 20), geometry, 3.0)
    aerated = _opened(air & ~_dilated(empty, geometry, 4.0), geometry, 3.0)
    lungs = np.zeros_like(air)
    for component in _components(aerated, geometry, at_least_ml=15):
        box = _box(component, geometry, 5.0)
        core = _eroded(component[box], geometry, 3.0)
        if core.sum() * geometry.voxel_ml > shown_ml(3.0, geometry) and LUNG_HU[0] < np.median(smooth[box][core]) < LUNG_HU[1] and (
            component.sum() * geometry.voxel_ml > shown_ml(200.0, geometry) or _is_cut(component)
        ):
            lungs |= component
    airway = np.zeros_like(air)
    for component in _components(_opened(air & (smooth < -930), geometry, 2.0), geometry, at_least_ml=2):
        if _is_trachea(component, body, lungs, geometry):
            airway |= component
    airway = _dilated(airway, geometry, 2.0) & air
    for bulla in _components(empty & ~airway, geometry, at_least_ml=0.5):  # emptier than lung, yet in the midst of it
        box = _box(bulla, geometry, 8.0)
        around = _dilated(bulla[box], geometry, 7.0) & ~_dilated(bulla[box], geometry, 4.0) & body[box]
        if around.any() and lungs[box][around].mean() > 0.5:
            lungs |= bulla
    lungs = _dilated(lungs, geometry, 6.0) & air & ~airway & ~_dilated(empty & ~lungs, geometry, 3.0)
    lungs = _without_small(lungs, geometry, 5.0)
    gas = np.zeros_like(air)
    for component in _components(_opened(air & ~lungs & ~airway, geometry, 1.5), geometry, at_least_ml=SMALLEST_ML):
        box = _box(component, geometry, 4.0)
        near_lung = (_dilated(component[box], geometry, 3.0) & lungs[box]).any()
        if near_lung and np.percentile(smooth[component], 10) > LUNG_HU[0] + 30:  # lung that the diaphragm's dome thins out
            lungs |= component
        else:
            gas |= component
    return lungs, airway, gas


def _is_cut(mask):
    """Whether the border of the image cuts a considerable part of the mask, other than at the foot end."""
    faces = (mask[-1], mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    return max(face.sum() for face in faces) > 0.3 * mask.sum() ** (2 / 3)


def _is_trachea(mask, body, lungs, geometry):
    """Whether a gas-filled space may be trachea and bronchi: slender, central, not at the front, and not below the lungs."""
    if not lungs.any():
        return False
    where, columns, rows = np.nonzero(mask), np.nonzero(body.any((0, 1)))[0], np.nonzero(body.any((0, 2)))[0]
    height, width = np.ptp(where[0]) + 1, np.ptp(columns) + 1
    area = mask.sum() / height * geometry.spacing[0] * geometry.spacing[1]  # mm2
    return bool(
        height * geometry.spacing[2] > min(25, 0.5 * len(mask) * geometry.spacing[2])
        and area < 1500
        and abs(where[2].mean() - (columns[0] + columns[-1]) / 2) < 0.15 * width
        and where[1].mean() > rows[0] + 0.3 * np.ptp(rows)
        and (where[0].mean() - np.nonzero(lungs)[0].mean()) * geometry.spacing[2] > -20
    )


def _vessel_contrast(smooth, lungs, other_gas, body, geometry):
    """HU above the aerated lung around each voxel, and the inside of the lungs where vessels may be."""
    hull = _closed(_opened(lungs, geometry, 2.0), geometry, 9.0) & body & ~_dilated(other_gas, geometry, 3.0)
    hull &= ~_dilated(_opened(hull & (smooth > -400), geometry, 8.0), geometry, 3.0)  # tumours, consolidations, heart
    hull = _eroded(hull, geometry, 2.0)
    aerated = (lungs & (smooth < -600)).astype(np.float32)
    share = _gaussian(aerated, geometry, 8.0)
    around = _gaussian(aerated * smooth, geometry, 8.0) / np.maximum(share, 1e-3)
    return np.where(share > 0.02, smooth - around, 0).astype(np.float32), hull


def _vessels(contrast, inside, geometry):
    """Vessels inside the lungs: brighter than half of the brightest voxel near by, so that a wide vessel is not drawn too wide."""
    image = to_sitk(contrast, geometry)
    if 1 in image.GetSize():  # of a single voxel along an axis the filter complains on stderr, so there are two
        image = sitk.ZeroFluxNeumannPad(image, [0] * 3, [int(n == 1) for n in image.GetSize()])
    peak = sitk.GetArrayFromImage(sitk.GrayscaleDilate(image, _radius(geometry, 3.0), sitk.sitkBox))
    peak = peak[tuple(map(slice, contrast.shape))]
    noise = 1.48 * np.median(np.abs(contrast[inside])) if inside.any() else 0.0
    least = max(VESSEL_CONTRAST, 3.5 * noise)
    vessels = inside & (contrast > np.maximum(least, 0.4 * peak))
    seeds, mask = (sitk.GetImageFromArray(m.astype(np.uint8)) for m in (vessels & (contrast > 1.6 * least), vessels))
    vessels = sitk.GetArrayFromImage(sitk.BinaryReconstructionByDilation(seeds, mask, 0.0, 1.0, True)) > 0
    return _without_small(vessels, geometry, 0.05)


def _bright(hu, smooth, inside, geometry):
    """Contrast-filled blood and bone."""
    even = _gaussian(smooth, geometry, 1.5)
    slope = sitk.GetArrayFromImage(sitk.GradientMagnitude(to_sitk(even, geometry)))  # HU per mm
    square, mean = (sitk.GetArrayFromImage(sitk.BoxMean(to_sitk(a, geometry), [2, 2, 1])) for a in (hu * hu, hu))
    spread = np.sqrt(np.maximum(square - mean**2, 0))  # blood has the scan's noise, spongy bone more than that
    inside_vessel = (even > 140) & (even < 1000) & (slope < np.clip(0.07 * even, 12, 40)) & (spread < np.maximum(50, 0.3 * even))
    organs = _organs(even, inside, geometry)
    cores = _opened(inside & ~organs & inside_vessel, geometry, 3.0)
    blood = np.zeros_like(cores)
    for core in _components(cores, geometry, at_least_ml=1):
        box = _box(core, geometry, 9.0)
        core, value = core[box], smooth[box]
        level = np.median(value[core])
        grown = _dilated(core, geometry, 7.0) & (value > 0.6 * level) & inside[box]
        shell = grown & ~_dilated(core, geometry, 1.5)
        if not shell.any() or np.percentile(value[shell], 75) < 1.1 * level:  # a cortex would be brighter than what it holds
            blood[box] |= grown
    blood |= _closed(blood, geometry, 6.0) & (smooth > 140)  # trabeculae of the heart, rims
    blood = _without_small(_rounded(blood & ~organs, geometry, 1.5) & inside, geometry, 2.0)
    bright = inside & ~blood & ~organs & (smooth > 170)
    seeds = _without_small(bright & (smooth > 320), geometry, 0.1)  # enhanced kidneys do not get there
    bone = _without_small(bright & _dilated(seeds, geometry, 10.0), geometry, 1.0)
    bone = _fill_slices(_closed(bone, geometry, 4.0)) & inside & ~blood & (smooth > -20)
    return blood, _without_small(_opened(bone, geometry, 1.0), geometry, 1.0)


def _organs(even, inside, geometry):
    """Enhanced kidneys, liver and spleen: as bright as blood, but thick, and neither bright nor central as heart and spine are."""
    organs = np.zeros_like(inside)
    columns = np.nonzero(inside.any((0, 1)))[0]
    for thick in _components(_opened(inside & (even > 110), geometry, 14.0), geometry, at_least_ml=20):
        central = abs(np.nonzero(thick)[2].mean() - columns.mean()) < 0.15 * np.ptp(columns)  # heart and spine
        if np.median(even[thick]) < 260 and not central:
            box = _box(thick, geometry, 9.0)
            organs[box] |= _dilated(thick[box], geometry, 7.0) & (even[box] > 90) & inside[box]
    return organs


def _smooth_labels(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring the label map to ``target``, each region's membership smoothed so that no stair-step of the working grid remains."""
    best = np.zeros(target.shape, np.float32)
    result = np.zeros(target.shape, np.uint8)
    for value in np.unique(labels):
        sigma = 0.8 if value in (_VALUE["bone"], _VALUE["airway"]) else 1.5
        member = resample(_gaussian((labels == value).astype(np.float32), source, sigma), source, target)
        better = member > best
        result[better] = value
        best[better] = member[better]
    return result


def _without_specks(labels, geometry):
    """Components below a millilitre, airways and vessels apart, go to what surrounds them."""
    specks = np.zeros(labels.shape, bool)
    for name in ("soft_tissue", "fat", "bone", "lungs", "bowel_gas", "blood"):
        mask = labels == _VALUE[name]
        specks |= mask & ~_without_small(mask, geometry, SMALLEST_ML)
    labels = np.where(specks, _UNDECIDED, labels).astype(np.uint8)
    padded = np.pad(labels, 1)
    flat, steps = padded.reshape(-1), np.array(padded.strides)
    open_ = np.flatnonzero(flat == _UNDECIDED)
    while open_.size:
        found = np.zeros(open_.size, np.uint8)
        for step in (*steps, *-steps):
            near = flat[open_ + step]
            found = np.where((found == 0) & ~np.isin(near, (_UNDECIDED, _VALUE["airway"], _VALUE["lung_vessels"])), near, found)
        if not found.any():
            flat[open_] = 0
            break
        flat[open_[found > 0]] = found[found > 0]
        open_ = open_[found == 0]
    return padded[1:-1, 1:-1, 1:-1]


def _gaussian(array, geometry, mm):
    return sitk.GetArrayFromImage(smoothed(to_sitk(array.astype(np.float32), geometry), mm))


def shown_ml(ml: float, geometry: Geometry) -> float:
    """What of a compact thing of ``ml`` a scan shows at most: all of it, unless the scan is thinner than the thing along an axis."""
    box = np.array(geometry.shape[::-1]) * geometry.spacing
    return float(ml * np.minimum(1, box / (1000 * ml) ** (1 / 3)).prod()) if ml > 0 else 0.0


def _radius(geometry, mm):
    return [max(int(round(mm / s)), 1 if mm >= 0.5 * s else 0) for s in geometry.spacing]


def _morphology(operation, mask, geometry, mm, fitting=False):
    """``fitting``: the kernel is made to fit into the scan, or a few slices would be too thin for any body."""
    radius = _radius(geometry, mm)
    if fitting:
        radius = [min(r, (n - 1) // 2) for r, n in zip(radius, mask.shape[::-1], strict=True)]
    image = sitk.ConstantPad(sitk.GetImageFromArray(mask.astype(np.uint8)), radius, radius, 0)
    result = sitk.GetArrayFromImage(operation(image, radius, sitk.sitkBall)) > 0
    return result[tuple(slice(r, n - r) for r, n in zip(radius[::-1], result.shape, strict=True))]


def _rounded(mask, geometry, mm):
    """The mask's borders smoothed by ``mm`` in all three directions; what is thinner vanishes."""
    return _gaussian(mask, geometry, mm) > 0.5


def _opened(mask, geometry, mm):
    return _morphology(sitk.BinaryMorphologicalOpening, mask, geometry, mm, fitting=True)


def _closed(mask, geometry, mm):
    return _morphology(sitk.BinaryMorphologicalClosing, mask, geometry, mm)


def _dilated(mask, geometry, mm):
    return _morphology(sitk.BinaryDilate, mask, geometry, mm)


def _eroded(mask, geometry, mm):
    """Eroded from within the image only: its border erodes nothing."""
    return ~_dilated(~mask, geometry, mm)


def _labelled(mask, smallest):
    image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)))
    return sitk.GetArrayFromImage(sitk.RelabelComponent(image, int(np.ceil(max(smallest, 1)))))


def _components(mask, geometry, at_least_ml):
    labelled = _labelled(mask, shown_ml(at_least_ml, geometry) / geometry.voxel_ml)
    return [labelled == value for value in range(1, min(labelled.max(), 40) + 1)]


def _box(mask, geometry, mm):
    """The part of the grid that holds the mask and ``mm`` around it, as slices."""
    margin = np.ceil(mm / geometry.spacing[::-1]).astype(int)
    spans = (np.nonzero(mask.any(others))[0] for others in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(max(span[0] - m, 0), span[-1] + m + 1) for span, m in zip(spans, margin, strict=True))


def _without_small(mask, geometry, ml):
    return _labelled(mask, shown_ml(ml, geometry) / geometry.voxel_ml) > 0


def _largest(mask):
    return _labelled(mask, 1) == 1


def _fill_slices(mask):
    """Fill what the mask encloses in each axial slice, and only there: the lungs are open to the top of a cropped scan."""
    return np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(one.astype(np.uint8)), True)) for one in mask]) > 0
