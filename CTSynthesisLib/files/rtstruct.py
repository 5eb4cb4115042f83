"""Reading contours (DICOM RTSTRUCT) as masks on the grid of the series that they were drawn on."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput
from ..volume import Segment
from .codes import modern
from .dicom_seg import concept
from .dicom_series import find_series, series_beside
from .flatten import Flattening

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_rtstruct(path, *, reference=None, rank=None):
    """Return ``(labelmap, notes)`` of the structures of ``path`` that have contours.

    A voxel belongs to a structure where its center lies inside an odd number of the structure's contours (so that a contour inside
    another is a hole). A contour belongs to the slice nearest to it, at most half a slice away.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        frame = dataset.ReferencedFrameOfReferenceSequence[0]
        uid = str(frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID)
    except (AttributeError, IndexError, OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError) as error:
        raise UnusableInput(f"{path} is damaged or names no image series that its contours belong to; export it again.") from error
    series = _series(path, uid, frame.get("FrameOfReferenceUID"), reference)
    geometry = series.geometry
    contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", ())}
    codes = {
        int(item.ReferencedROINumber): concept(item.RTROIIdentificationCodeSequence)
        for item in dataset.get("RTROIObservationsSequence", ())
        if item.get("RTROIIdentificationCodeSequence")
    }
    segments, planes_of, outside = [], [], []
    for roi in dataset.get("StructureSetROISequence", ()):
        number, name = int(roi.ROINumber), str(roi.get("ROIName") or f"ROI {roi.ROINumber}").strip()
        planes, missed = _planes(contours.get(number), geometry, path, name)
        color = contours[number].get("ROIDisplayColor") if number in contours else None
        rgb = tuple(int(c) / 255 for c in color) if color is not None and len(color) == 3 else None
        segments.append(Segment(len(segments) + 1, name, code=modern(codes.get(number)), color=rgb))
        planes_of.append(planes)
        outside += [name] * missed
    flat = Flattening(geometry, segments, rank)
    for number, planes in enumerate(planes_of):
        for k, polygons in planes.items():
            flat.paint(number, fill_even_odd(polygons, geometry.shape[1:]), k)
    labelmap, notes = flat.result()
    if outside:
        notes += (f"{len(outside)} contours lie outside the series and were left out ({', '.join(sorted(set(outside)))}).",)
    return labelmap, series.notes + notes


def _series(path, uid, frame_of_reference, reference):
    if reference is None:
        series = series_beside(path, uid)
        if series is None:
            raise UnusableInput(
                f"The series that the contours of {path} were drawn on does not lie beside them; give its folder as the reference."
            )
        return series
    try:
        return find_series(reference, uid)
    except UnusableInput:
        series = find_series(reference)  # another series may do if it lies in the same space
        if series.uid == uid or series.headers[0].get("FrameOfReferenceUID") == frame_of_reference:
            return series
        raise UnusableInput(f"The series in {reference} is not the one that the contours of {path} belong to; give that one.") from None


def _planes(item, geometry, path, name):
    """``({k: [contour of (x, y) in voxels]}, number of contours outside)`` of a structure."""
    to_voxels = np.linalg.inv(geometry.to_lps())
    by_plane: dict[float, list] = {}
    for contour in item.get("ContourSequence") or () if item is not None else ():
        if contour.get("ContourGeometricType") not in _CLOSED or len(contour.get("ContourData") or ()) < 9:
            continue
        points = np.reshape(np.array(contour.ContourData, dtype=float), (-1, 3))
        ijk = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if np.ptp(ijk[:, 2]) > 0.5:
            raise UnusableInput(f"The contours of {name} in {path} do not lie in the slices of the series; export DICOM SEG instead.")
        by_plane.setdefault(round(float(ijk[:, 2].mean()), 2), []).append(ijk[:, :2])
    planes, missed = {}, 0
    for position in by_plane:
        k = int(np.floor(position + 0.5))
        if not 0 <= k < geometry.shape[0]:
            missed += len(by_plane[position])
        # planes closer than the slices: the nearest one speaks for the slice (both together would cancel)
        elif k not in planes or abs(position - k) < abs(planes[k] - k):
            planes[k] = position
    return {k: by_plane[position] for k, position in planes.items()}, missed


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
