"""Reading contours (DICOM RTSTRUCT) as masks on the grid of the series that they were drawn on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..errors import UnusableInput
from ..volume import Segment
from .between import ALIKE, masks_between, usual_gap
from .codes import modern
from .dicom_seg import concept
from .dicom_series import decoding, read_dataset, series_of
from .flatten import Flattening

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_ONE_PLANE = 0.15  # mm; contours no further apart lie in one plane: planning systems round to tenths, and no CT has slices as close
_HALFWAY = 0.01  # of a slice; contours halfway between two slices all go the same way, whatever their last digits are


@dataclass(frozen=True)
class _Structure:
    """One structure of the file: its name and its closed contours, each (n, 3) in LPS mm; ``open`` counts what encloses nothing."""

    name: str
    code: tuple | None
    color: tuple | None
    contours: tuple[np.ndarray, ...]
    open: int


def read_rtstruct(path, *, reference=None, rank=None):
    """Return ``(labelmap, notes)`` of the structures of ``path`` that have contours.

    A voxel belongs to a structure where its center lies inside an odd number of the structure's contours (so that a contour inside
    another is a hole). A contour belongs to the slice nearest to it, at most half a slice away. Where a structure is outlined in every
    second, third, ... slice, the slices between are filled in by interpolation.

    Raises
    ------
    UnusableInput
        If the file is damaged, its series is not there, or its contours do not lie in the series' slices.
    """
    dataset = read_dataset(path)
    with decoding(path, "a complete set of contours"):
        uid, frame = _belongs_to(dataset)
        structures = _structures(dataset)
    series, notes = series_of(path, uid, frame, reference)
    if series is None:
        raise UnusableInput(
            f"The series that the contours of {path} were drawn on does not lie beside them; give its folder as the reference."
        )
    geometry = series.geometry
    lost = {"outside": Counter(), "closer": Counter(), "open": Counter({s.name: s.open for s in structures if s.open and s.contours})}
    planes_of = [_planes(structure, geometry, path, lost) for structure in structures]
    gaps_of = [np.diff([position for _, position, _ in planes]) for planes in planes_of]
    segments = [Segment(n, s.name, code=s.code, color=s.color) for n, s in enumerate(structures, start=1)]
    flat = Flattening(geometry, segments, rank)
    filled, left = {}, []
    for number, (structure, planes, gaps) in enumerate(zip(structures, planes_of, gaps_of, strict=True)):
        usual = usual_gap(gaps if len(gaps) > 1 else np.concatenate(gaps_of))  # two contours alone have the rhythm of the others
        before = None
        for k, position, polygons in planes:
            mask = fill_even_odd(polygons, geometry.shape[1:])
            flat.paint(number, mask, k)
            if before is not None and k - before[0] > 1:
                if position - before[1] > ALIKE * usual:
                    left.append(structure.name)
                elif mask.any() and before[2].any():
                    filled[structure.name] = usual
                    for between, part in masks_between(before[0], before[2], k, mask, geometry.spacing[:2]):
                        flat.paint(number, part, between)
            before = k, position, mask
    labelmap, more = flat.result()
    return labelmap, notes + series.notes + more + _told(filled, left, lost)


def _told(filled, left, lost):
    """One note for each thing that happened to contours, with the structures it happened to."""
    notes = ()
    if filled:
        found = ", ".join(f"{name} (every {usual:.2g} slices)" for name, usual in filled.items())
        notes += (f"Between contours further apart than the slices, the slices were filled in by interpolation: {found}.",)
    if left:
        notes += (f"Without regular contours, slices between others were left empty: {', '.join(dict.fromkeys(left))}.",)
    sentences = {
        "outside": "contours lie outside the series and were left out",
        "closer": "contours were left out, because others of the same structure lie nearer to the same slice",
        "open": "contours were left out, because they are points or open lines",
    }
    for what, names in lost.items():
        if names:
            notes += (f"{names.total()} {sentences[what]} ({', '.join(sorted(names))}).",)
    return notes


def _belongs_to(dataset):
    """``(series, frame of reference)`` that the contours belong to, each None where the file does not say it (DICOM lets it)."""
    frames = dataset.get("ReferencedFrameOfReferenceSequence")
    named = frames[0] if frames else dataset
    study = named.get("RTReferencedStudySequence")
    series = study[0].get("RTReferencedSeriesSequence") if study else None
    frame = named.get("FrameOfReferenceUID") or dataset.StructureSetROISequence[0].get("ReferencedFrameOfReferenceUID")
    return str(series[0].SeriesInstanceUID) if series else None, str(frame) if frame else None


def _structures(dataset) -> list[_Structure]:
    contours = {int(item.ReferencedROINumber): item for item in dataset.ROIContourSequence}
    codes = {
        int(item.ReferencedROINumber): concept(item.RTROIIdentificationCodeSequence)
        for item in dataset.get("RTROIObservationsSequence") or ()
        if item.get("RTROIIdentificationCodeSequence")
    }
    found = []
    for roi in dataset.StructureSetROISequence:
        number, name = int(roi.ROINumber), str(roi.get("ROIName") or f"ROI {roi.ROINumber}").strip()
        item = contours.get(number)
        color = item.get("ROIDisplayColor") if item is not None else None
        rgb = tuple(int(c) / 255 for c in color) if color is not None and len(color) == 3 else None
        drawn = (item.get("ContourSequence") or ()) if item is not None else ()
        closed = [c for c in drawn if c.get("ContourGeometricType") in _CLOSED and len(c.get("ContourData") or ()) >= 9]
        points = tuple(np.reshape(np.array(contour.ContourData, dtype=float), (-1, 3)) for contour in closed)
        if not all(np.isfinite(p).all() for p in points):
            raise ValueError("a contour with points that are nowhere")
        found.append(_Structure(name, modern(codes.get(number)), rgb, points, len(drawn) - len(closed)))
    return found


def _planes(structure, geometry, path, lost):
    """``[(k, position along k in voxels, contours as (i, j) in voxels)]`` of a structure, by k; what is left out is counted in ``lost``."""
    to_voxels = np.linalg.inv(geometry.to_lps())
    placed = []
    for points in structure.contours:
        ijk = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if np.ptp(ijk[:, 2]) > 0.5:
            raise UnusableInput(
                f"The contours of {structure.name} in {path} do not lie in the slices of the series; export DICOM SEG instead."
            )
        placed.append((float(ijk[:, 2].mean()), ijk[:, :2]))
    apart = min(_ONE_PLANE / geometry.spacing[2], 0.25)
    planes: list[tuple[float, list]] = []
    for position, polygon in sorted(placed, key=lambda one: one[0]):
        if planes and position - planes[-1][0] <= apart:
            planes[-1][1].append(polygon)
        else:
            planes.append((position, [polygon]))
    nearest: dict[int, tuple[float, list]] = {}
    for position, polygons in planes:
        k = int(np.floor(position + 0.5 + _HALFWAY))
        if k == geometry.shape[0] and position < k - 0.5 + _HALFWAY:
            k -= 1  # halfway beyond the last slice is not yet outside
        if not 0 <= k < geometry.shape[0]:
            lost["outside"][structure.name] += len(polygons)
            continue
        # planes closer than the slices: the nearest one speaks for the slice (both together would cancel)
        further = nearest.get(k)
        if further is None or abs(position - k) < abs(further[0] - k):
            nearest[k] = position, polygons
        else:
            further = position, polygons
        if further is not None:
            lost["closer"][structure.name] += len(further[1])
    return [(k, *nearest[k]) for k in sorted(nearest)]


def fill_even_odd(polygons, shape) -> np.ndarray:
    """Boolean mask (j, i) of the voxels whose center lies inside an odd number of ``polygons``, each (n, 2) of (i, j) voxel coordinates.

    Each edge toggles, in every row that it crosses, all voxels to its right; a running exclusive-or along the row does the rest.
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), dtype=np.uint8)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        start, end = (np.where((start[:, 1] <= end[:, 1])[:, None], a, b) for a, b in ((start, end), (end, start)))  # downwards in j
        first = np.clip(np.ceil(start[:, 1]), 0, rows).astype(int)
        last = np.clip(np.ceil(end[:, 1]), 0, rows).astype(int)  # half-open, so that a vertex counts once
        count = last - first
        edge = np.repeat(np.arange(len(polygon)), count)
        j = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
        i = start[edge, 0] + (j - start[edge, 1]) * slope
        np.bitwise_xor.at(toggles, (j, np.clip(np.ceil(i), 0, columns).astype(int)), 1)
    return np.bitwise_xor.accumulate(toggles, axis=1)[:, :columns].astype(bool)
