"""``--match``: what a request leaves open, read from a scan of the same patient or from the same scanner.

Hounsfield values come from where each segment lies in the scan; where the scan shows another patient, from its tissue regions. Noise,
sharpness and slice correlation are measured as in training: on crops of six slices, at the pixel size that the CT will have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import SimpleITK as sitk

from ..anatomy import Tissue, Understood, ancestors, structures, understand
from ..errors import UnusableInput
from ..regions import segment_regions
from ..smoothing import coarse_grid, smoothed
from ..volume import Geometry, LabelMap, Volume, reorder, resample, to_sitk, without_padding
from .request import FILLED, Grain, Request

SLAB, CROP = 6, 160  # slices and pixels, as in training
MOST_SLABS = 16
SMOOTHING = 3.0  # mm, before soft tissue is recognised by its HU
EVEN_SLOPE = 5.0  # HU/mm after it; steeper is an edge or a vessel
FEWEST_VOXELS = 8  # of a segment within the scan, and at least a quarter of it
REGION_MM = 2.0  # the grid on which the tissue regions of the scan are found
MISSING = -32768  # outside the scan
THICKNESS_KEYS = ("SliceThickness", "DICOM.SliceThickness", "0018|0050")
# HU that voxels of a tissue have in nearly every patient and phase: they tell whether the scan shows the anatomy that the segments say
PLAUSIBLE = {
    Tissue.GAS: (-1100, -400), Tissue.LUNG: (-1100, -300), Tissue.FAT: (-250, 0), Tissue.ORGAN: (-40, 350), Tissue.MUSCLE: (-80, 200),
    Tissue.BLOOD: (-40, 700), Tissue.BONE: (60, 3000), Tissue.FLUID: (-60, 150),
}  # fmt: skip
# On average over the structures this share of their voxels has a plausible HU: in the patient's own scan 0.90 or more, shifted by 2 cm
# 0.58-0.86, in others' scans centred on it 0.59-0.90; what passes wrongly overlaps so well that the medians hold.
SAME_PATIENT = 0.8
SAME_GRID = 0.5  # the same, where the grids agree: the segments were drawn on this scan, and a lung may well be consolidated
STANDS_FOR = {Tissue.LUNG: "lungs", Tissue.FAT: "fat", Tissue.MUSCLE: "soft_tissue", Tissue.BONE: "bone", Tissue.BLOOD: "blood",
              Tissue.GAS: "bowel_gas"}  # fmt: skip


def match(
    labelmap: LabelMap,
    scan: Volume,
    request: Request,
    *,
    names: dict[str, str] | None = None,
    regions: LabelMap | None = None,
) -> tuple[Request, tuple[str, ...]]:
    """``request`` with what it leaves open taken from ``scan``: HU of each segment, noise, sharpness, slice thickness and correlation.

    Parameters
    ----------
    labelmap : LabelMap
        On the grid that the CT will have.
    scan : Volume
        A CT in HU on any grid: of the same patient in the same frame, or of another patient from the same scanner.
    names : dict, optional
        The user's corrections: structure name by segment name.
    regions : LabelMap, optional
        The scan's tissue regions, where they are known already; otherwise they are found if they are needed.

    Returns
    -------
    request : Request
        Whatever the user had set is kept.
    sentences : tuple of str
        What had to be assumed, for the user.

    Raises
    ------
    UnusableInput
        If a HU has to come from the scan's tissue regions and no body is found in it.
    """
    scan = replace(scan, array=without_padding(scan.array))
    find_regions = cache(lambda: regions or _regions_of(scan))
    hu, sentences = _hounsfield(labelmap, scan, request, names, find_regions)
    try:
        filled = _filled(labelmap, scan, request, names, find_regions)
    except UnusableInput:
        filled = {}
        sentences.append("No body was found in the scan to match, so tissues that are filled in keep their values from the anatomy table.")
    found: dict = {"hu": {**filled, **hu, **(request.hu or {})} or None}
    axial = _axial(scan.geometry).spacing
    if request.thickness is None:
        stated = _stated_thickness(scan)
        found["thickness"] = round(stated or min(float(axial[2]), 20.0), 4)
        if stated is None:
            sentences.append(f"The scan to match does not state its slice thickness; its slice spacing of {axial[2]:.3g} mm was taken.")
    noise, sharpness, across, grain = _quality(scan, _axial(labelmap.geometry).spacing)
    if noise is None:
        sentences.append("The scan to match shows too little even soft tissue to measure its noise and sharpness; the defaults were taken.")
    elif across is None and request.slice_correlation is None:
        sentences.append("The scan to match has no slices as far apart as those to be made, so their correlation was left open.")
    if request.noise is None and noise is not None:
        found["noise"] = round(min(noise, 200.0), 2)
    if request.sharpness is None and request.kernel is None and sharpness is not None:
        found["sharpness"] = round(sharpness, 3)
    if request.slice_correlation is None and across is not None:
        found["slice_correlation"] = round(across, 3)
    if grain is not None and request.grain is None and (request.noise, request.sharpness, request.kernel) == (None,) * 3:
        found["grain"] = replace(grain, change=None) if across is None or request.slice_correlation is not None else grain
    return replace(request, **found), tuple(sentences)


# ------------------------------------------------------------------------------------------------------------ Hounsfield values


def _hounsfield(labelmap: LabelMap, scan: Volume, request: Request, names, find_regions) -> tuple[dict[str, float], list[str]]:
    """HU by segment name for the segments that the user gave none, and what was assumed."""
    wanted = _open_segments(labelmap, request, names)
    if not wanted:
        return {}, []
    on_grid = resample(scan.array.astype(np.int16, copy=False), scan.geometry, labelmap.geometry, outside=MISSING)
    values = {name: _values_inside(on_grid, labelmap, group) for name, group in wanted.items()}
    agreement = [_plausible(values[name], group[0]) for name, group in wanted.items() if len(values[name])]
    agreement = [share for share in agreement if share is not None]
    if not any(len(v) for v in values.values()):
        reason = "The scan to match does not overlap the segments, so it was taken for another patient's"
    elif agreement and np.mean(agreement) < (SAME_GRID if scan.geometry.agrees_with(labelmap.geometry) else SAME_PATIENT):
        reason = "Where the segments lie, the scan to match shows other anatomy, so it was taken for another patient's"
    else:
        return _pinned({name: _median(v) for name, v in values.items() if len(v)}, labelmap, request, names), _unseen(values)
    hu = _from_regions(_region_medians(scan, find_regions()), wanted, request.phase)
    tissues = ", ".join(sorted({wanted[name][0].structure.tissue.value for name in hu}))
    rest = "; the rest keep their values from the anatomy table" if len(hu) < len(wanted) else ""
    what = f"the HU of {tissues} are the medians of that tissue in the scan{rest}" if hu else "no HU was taken from it"
    return _pinned(hu, labelmap, request, names), [f"{reason}: {what}."]


def _open_segments(labelmap: LabelMap, request: Request, names) -> dict[str, list[Understood]]:
    """By name, the segments with voxels whose HU may come from the scan: not set by the user, and more than "some part of the body"."""
    present = set(np.unique(labelmap.array).tolist())
    low, high = (
        understand(labelmap.segments, names=names, hu=dict.fromkeys(request.hu or {}, value), elsewhere=FILLED)
        for value in (-1000.0, 1000.0)
    )
    groups: dict[str, list[Understood]] = {}
    for u, other in zip(low, high, strict=True):
        is_set = u.mean_hu != other.mean_hu or u.segment.hu is not None
        if not is_set and u.segment.value in present and u.structure.tissue not in (Tissue.BODY, Tissue.AIR):
            same = next((name for name in groups if name.casefold() == u.segment.name.casefold()), u.segment.name)
            groups.setdefault(same, []).append(u)
    return groups


def _values_inside(hu: np.ndarray, labelmap: LabelMap, group: Iterable[Understood]) -> np.ndarray:
    """The HU within segments of one name, whole, as in training; empty where too little of them lies in the scan."""
    found, total = [], 0
    for u in group:
        box, inside = _cut_out(labelmap.array, u.segment.value)
        values = hu[box][inside]
        total += len(values)
        found.append(values[values != MISSING])
    values = np.concatenate(found)
    return values if len(values) >= max(min(FEWEST_VOXELS, total), total / 4) else values[:0]


def _cut_out(labels: np.ndarray, value: int) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box (slices) around one label, and its mask in there."""
    box = []
    for axis in range(3):  # each step looks only at what the ones before have left
        rest = labels[tuple(box)]
        others = tuple(n for n in range(3) if n != axis)
        where = np.flatnonzero((rest == value).any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box), labels[tuple(box)] == value


def _median(values: np.ndarray) -> float:
    return round(float(np.clip(np.median(values), -1024, 3071)), 1)


def _plausible(values: np.ndarray, u: Understood) -> float | None:
    """Share of ``values`` that a structure of this tissue may have; None where it may have any."""
    if u.how == "not understood" or u.structure.tissue not in PLAUSIBLE:
        return None
    low, high = PLAUSIBLE[u.structure.tissue]
    mean, sd = u.structure.mean(), u.structure.sd()
    return float(((values > min(low, mean - 2 * sd)) & (values < max(high, mean + 2 * sd))).mean())


def _unseen(values: dict[str, np.ndarray]) -> list[str]:
    unseen = [name for name, v in values.items() if not len(v)]
    if not unseen:
        return []
    listed = ", ".join(f"'{name}'" for name in unseen[:5]) + (f" and {len(unseen) - 5} more" if len(unseen) > 5 else "")
    return [f"The scan to match does not cover {listed}; the values come from the anatomy table."]


def _from_regions(medians: dict[str, float], wanted: dict[str, list[Understood]], phase: str) -> dict[str, float]:
    """The medians of the scan's tissue regions for the segments of these tissues.

    What is filled with blood gets its share of the contrast found in the blood: a whole heart less than the aorta. Organs and hollow
    ones keep their values from the table: the scan's soft tissue as a whole is mostly muscle.
    """
    phase = phase if phase != "plain" else "portal"  # blood is only found where there is contrast
    blood = structures()["blood"]
    hu = {}
    for name, (u, *_) in wanted.items():
        alike = [one.name for one in (u.structure, *ancestors(u.structure)) if one.tissue is u.structure.tissue]
        candidates = [] if u.how == "not understood" else [*alike, STANDS_FOR.get(u.structure.tissue, "")]
        for candidate in candidates:
            if candidate in medians:
                hu[name] = medians[candidate]
                if candidate == "blood":
                    share = (u.structure.mean(phase) - u.structure.mean()) / (blood.mean(phase) - blood.mean())
                    hu[name] = round(u.structure.mean() + share * (medians["blood"] - blood.mean()), 1)
                break
    return hu


def _regions_of(scan: Volume) -> LabelMap:
    """The scan's tissue regions, found on a grid of 2 mm: where only medians are wanted, that is as good and takes half the time."""
    coarse = coarse_grid(scan.geometry, REGION_MM)
    found = segment_regions(Volume(resample(scan.array, scan.geometry, coarse, outside=MISSING), coarse))
    return replace(found, array=resample(found.array, coarse, scan.geometry, labels=True), geometry=scan.geometry)


def _region_medians(scan: Volume, regions: LabelMap) -> dict[str, float]:
    """Median HU of each tissue region that holds a millilitre, by structure."""
    inside = {u.structure.name: scan.array[regions.mask(u.segment)] for u in understand(regions.segments)}
    return {name: _median(values) for name, values in inside.items() if len(values) * scan.geometry.voxel_ml >= 1}


def _filled(labelmap: LabelMap, scan: Volume, request: Request, names, find_regions) -> dict[str, float]:
    """HU of the tissues that will be filled in where no segment says anything; none where nothing will be."""
    understood = understand(labelmap.segments, names=names)
    specified = [u.segment.value for u in understood if u.structure.tissue is not Tissue.BODY]
    present = np.unique(labelmap.array)
    if request.inside != "anatomy" or (set(present.tolist()) - {0} <= set(specified) and request.outside == "air"):
        return {}
    taken = {key.casefold() for u in understood for key in (u.segment.name, u.structure.name)} | set(request.filled_hu)
    if taken.issuperset(FILLED):
        return {}
    return {name: hu for name, hu in _region_medians(scan, find_regions()).items() if name in FILLED and name not in taken}


def _pinned(hu: dict[str, float], labelmap: LabelMap, request: Request, names) -> dict[str, float]:
    """``hu`` and, for finer structures that it would change by the way (vessels by the lungs around them), their own values."""
    before = understand(labelmap.segments, phase=request.phase, names=names, hu=request.hu, elsewhere=FILLED)
    after = understand(labelmap.segments, phase=request.phase, names=names, hu={**hu, **(request.hu or {})}, elsewhere=FILLED)
    own = {name.casefold() for name in hu}
    moved = (b for b, a in zip(before, after, strict=True) if a.mean_hu != b.mean_hu and b.segment.name.casefold() not in own)
    return hu | {b.segment.name: b.mean_hu for b in moved if b.structure.tissue is not Tissue.BODY}


# ------------------------------------------------------------------------------------------------------------ how it was scanned


def _axial(geometry: Geometry) -> Geometry:
    return geometry.reordered(*geometry.anatomical_axes)


def _stated_thickness(scan: Volume) -> float | None:
    for key in THICKNESS_KEYS:
        try:
            value = float(scan.metadata[key])
        except (KeyError, ValueError):
            continue
        if 0 < value <= 20:
            return round(value, 4)
    return None


def _quality(scan: Volume, spacing: np.ndarray) -> tuple[float | None, float | None, float | None, Grain | None]:
    """Noise (HU), sharpness, slice correlation and grain, as they are at the axial ``spacing`` (i, j, k) in mm.

    The first three are medians over parts of ``scan``. The slice correlation is that of the slices as far apart as ``spacing`` says, None
    where the scan has no such slices.
    """
    import torch

    from .grain import measured
    from .scan_quality import SOFT_TISSUE_HU, measure

    axes, flips = scan.geometry.anatomical_axes
    axial, array = _axial(scan.geometry), reorder(scan.array, axes, flips)
    apart = max(round(float(spacing[2] / axial.spacing[2])), 1)
    carries_over = abs(apart * axial.spacing[2] / spacing[2] - 1) < 0.25
    apart = apart if carries_over and apart * 2 <= len(array) else 1
    found, slabs = [], []
    for first, last in _slabs(len(array), SLAB * apart):
        hu, smooth = (a[::apart] for a in _slab(array, axial, first, last, spacing))
        soft = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
        for window in _windows(soft):
            found.append(measure(*(torch.from_numpy(a[window].copy()) for a in (hu, soft))))
        if min(smooth.shape[1:]) > 1:
            down, across = np.gradient(smooth, spacing[1], spacing[0], axis=(1, 2))
            slabs.append((hu, soft & (np.hypot(down, across) < EVEN_SLOPE)))
    found = [one for one in found if one is not None]
    across = [one.slice_correlation for one in found if one.slice_correlation is not None and carries_over]
    lists = [one.noise for one in found], [one.sharpness for one in found], across
    return *(float(np.median(figures)) if figures else None for figures in lists), measured(slabs, spacing) if slabs else None


def _slabs(slices: int, size: int) -> list[tuple[int, int]]:
    """(first, one past the last) slice of at most 16 slabs, evenly over the scan."""
    number = min(max(slices // size, 1), MOST_SLABS)
    starts = np.linspace(0, max(slices - size, 0), number).round().astype(int)
    return [(int(start), min(int(start) + size, slices)) for start in starts]


def _windows(soft: np.ndarray) -> list[tuple[slice, slice, slice]]:
    """About as large as training's crops, over the part of a slab where there is soft tissue."""
    where = soft.any(axis=0)
    if not where.any():
        return []
    parts = []
    for axis in (0, 1):
        extent = np.flatnonzero(where.any(axis=1 - axis))
        edges = np.linspace(extent[0], extent[-1] + 1, max(round(np.ptp(extent) / CROP), 1) + 1).astype(int)
        parts.append([slice(a, b) for a, b in pairwise(edges.tolist())])
    return [(slice(None), rows, columns) for rows, columns in product(*parts)]


def _slab(array, axial: Geometry, first: int, last: int, spacing) -> tuple[np.ndarray, np.ndarray]:
    """HU and smoothed HU (D, H, W) float32 of the slices ``first`` to ``last``, at the in-plane ``spacing``."""
    margin = math.ceil(2 * SMOOTHING / axial.spacing[2])
    begin, end = max(first - margin, 0), min(last + margin, len(array))
    hu = np.clip(array[begin:end], -1024, 3071).astype(np.float32)
    smooth = smoothed(to_sitk(hu, axial.crop((begin, 0, 0), hu.shape)), SMOOTHING)
    hu, smooth = hu[first - begin : last - begin], sitk.GetArrayFromImage(smooth)[first - begin : last - begin]
    if np.abs(spacing[:2] / axial.spacing[:2] - 1).max() > 0.1:
        source = axial.crop((first, 0, 0), hu.shape)
        target = source.with_spacing((spacing[0], spacing[1], axial.spacing[2]))
        hu, smooth = resample(hu, source, target), resample(np.ascontiguousarray(smooth), source, target)
    return hu, smooth
