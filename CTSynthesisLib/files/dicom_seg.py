"""DICOM SEG: reading binary, fractional and label-map segmentations, and writing one that refers to a synthetic series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import UnusableInput
from ..volume import LPS_FROM_RAS, Geometry, LabelMap, Segment
from .beside import written_beside
from .codes import TISSUE, category_of, modern
from .dicom_series import find_series, series_beside
from .flatten import Flattening


def read_dicom_seg(path, *, reference=None, rank=None):
    """Return ``(labelmap, notes)`` of a DICOM segmentation; frames that it leaves out are empty.

    The grid is that of the series the segmentation refers to, when that is given or lies beside and the frames fit on it; else the
    slices between the first and the last frame.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        segments = {int(item.SegmentNumber): _segment(item) for item in dataset.SegmentSequence if int(item.SegmentNumber)}  # 0: background
        numbers, positions, grid = _frames(dataset)
    except (AttributeError, IndexError, KeyError, OSError, EOFError, TypeError, ValueError, pydicom.errors.InvalidDicomError) as error:
        raise UnusableInput(f"{path} is damaged or not a complete DICOM segmentation; export it again.") from error
    geometry, notes = _geometry(dataset, path, reference, positions, grid)
    voxels = positions @ np.linalg.inv(geometry.to_lps())[:3, :3].T + np.linalg.inv(geometry.to_lps())[:3, 3]
    slices = np.round(voxels[:, 2]).astype(int)
    by_label = dataset.SegmentationType == "LABELMAP"
    fractional = dataset.SegmentationType == "FRACTIONAL"
    threshold = int(dataset.MaximumFractionalValue) / 2 if fractional else 0.5
    flat = Flattening(geometry, list(segments.values()), rank)
    for frame, number in enumerate(numbers):
        pixels, k = _pixels(dataset, frame, path), slices[frame]
        for place, segment in enumerate(segments):
            if by_label:
                flat.paint(place, pixels == segment, k)
            elif segment == number:
                flat.paint(place, pixels >= threshold, k)
    if fractional:
        notes += ("Fractional segments were taken where they fill at least half of a voxel.",)
    labelmap, more = flat.result()
    return labelmap, notes + more


def _segment(item):
    kind = item.get("SegmentedPropertyTypeCodeSequence")
    modifier = kind[0].get("SegmentedPropertyTypeModifierCodeSequence") if kind else None
    color = None
    if item.get("RecommendedDisplayCIELabValue"):
        from highdicom.color import CIELabColor

        color = tuple(c / 255 for c in CIELabColor.from_dicom_value(tuple(item.RecommendedDisplayCIELabValue)).to_rgb())
    return Segment(
        int(item.SegmentNumber),
        str(item.get("SegmentLabel") or f"Segment {item.SegmentNumber}").strip(),
        code=modern(concept(kind)) if kind else None,
        modifier=modern(concept(modifier)) if modifier else None,
        color=color,
    )


def concept(sequence):
    """The first item of a code sequence as (scheme, value, meaning)."""
    first = sequence[0]
    value = first.get("CodeValue") or first.get("LongCodeValue") or ""
    return str(first.get("CodingSchemeDesignator", "")), str(value), str(first.get("CodeMeaning", ""))


def _frames(dataset):
    """Segment number and position (LPS) of each frame, and the (row, column, between rows, between columns, slice spacing) they share."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    per_frame = dataset.PerFrameFunctionalGroupsSequence

    def group(frame, name):
        return (frame.get(name) or shared.get(name))[0]

    positions = np.array([group(frame, "PlanePositionSequence").ImagePositionPatient for frame in per_frame], dtype=float)
    if dataset.SegmentationType == "LABELMAP":
        numbers = [0] * len(per_frame)
    else:
        numbers = [int(group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber) for frame in per_frame]
    orientations = {tuple(np.round(np.array(group(f, "PlaneOrientationSequence").ImageOrientationPatient, float), 4)) for f in per_frame}
    if len(orientations) != 1:
        raise ValueError("frames of several orientations")
    measures = group(per_frame[0], "PixelMeasuresSequence")
    row, column = np.reshape(np.array(group(per_frame[0], "PlaneOrientationSequence").ImageOrientationPatient, float), (2, 3))
    between = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    return numbers, positions, (row, column, *(float(x) for x in measures.PixelSpacing), float(between) if between else None)


def _geometry(dataset, path, reference, positions, grid):
    own = _own_geometry(dataset, path, positions, grid)
    referred = dataset.get("ReferencedSeriesSequence")
    uid = str(referred[0].SeriesInstanceUID) if referred else None
    if reference is not None:
        series = find_series(reference, uid)
    else:
        try:
            series = series_beside(Path(path), uid) if uid else None
        except UnusableInput:  # the series beside is not usable as a volume, but the segmentation says by itself where it lies
            series = None
    if series is not None:
        start = np.linalg.solve(series.geometry.ijk_to_ras, own.ijk_to_ras)
        begin = np.round(start[:3, 3]).astype(int)
        ends = begin + own.shape[::-1]
        same_lattice = np.abs((start[:3, :3] - np.eye(3)) @ own.shape[::-1]).max() < 0.1 and np.abs(start[:3, 3] - begin).max() < 0.1
        if same_lattice and own.shape[1:] == series.geometry.shape[1:] and begin.min() >= 0 and (ends <= series.geometry.shape[::-1]).all():
            return series.geometry, series.notes
        return own, ("The segmentation does not fit on the slices of its series; its own grid was used.",)
    return own, ("The series that the segmentation refers to was not found; the grid is that of the segmentation's own slices.",)


def _own_geometry(dataset, path, positions, grid):
    row, column, between_rows, between_columns, between_slices = grid
    normal = np.cross(row, column)
    along = positions @ normal
    gaps = np.diff(np.unique(np.round(along, 3)))
    smallest = gaps[gaps > 0.01].min(initial=np.inf)
    if between_slices is None or smallest < 0.9 * between_slices:
        between_slices = float(smallest) if np.isfinite(smallest) else 1.0
    first, last = positions[np.argmin(along)], positions[np.argmax(along)]
    count = round(float(np.ptp(along)) / between_slices)
    step = (last - first) / count if count else normal * between_slices
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([row * between_columns, column * between_rows, step, first])
    geometry = Geometry((count + 1, int(dataset.Rows), int(dataset.Columns)), LPS_FROM_RAS @ matrix)
    voxels = np.linalg.solve(matrix, np.column_stack([positions, np.ones(len(positions))]).T)[:3]
    if np.abs(voxels[:2]).max() > 0.1 or np.abs(voxels[2] - np.round(voxels[2])).max() > 0.1:
        raise UnusableInput(f"The slices of {path} are unevenly spaced or shifted, so they make no volume; resample it first.")
    return geometry


def _pixels(dataset, frame, path):
    """One frame (j, i), without unpacking the others: a hundred organs in a large series would not fit in memory."""
    size = int(dataset.Rows) * int(dataset.Columns)
    if int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        begin, end = frame * size, (frame + 1) * size
        packed = np.frombuffer(dataset.PixelData, dtype=np.uint8)[begin // 8 : (end + 7) // 8]
        bits = np.unpackbits(packed, bitorder="little")[begin % 8 :][:size]
        if len(bits) < size:
            raise UnusableInput(f"{path} is incomplete: it ends before its last frame; copy or export it again.")
        return bits.reshape(dataset.Rows, dataset.Columns)
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset, index=frame)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UnusableInput(f"The frames of {path} cannot be decoded; export it without compression.") from error


def write_dicom_seg(labelmap: LabelMap, series_folder, path):
    """Write ``labelmap`` as a binary DICOM segmentation that refers to the (synthetic) series in ``series_folder``.

    A segment's own code is used, else that of the structure it was understood as, else the unspecific code Tissue.

    Raises
    ------
    UnusableInput
        If the series does not have the label map's geometry, or no voxel is labelled.
    """
    import pydicom
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentDescription

    from .dicom_ct import right_handed

    series = find_series(series_folder)
    array, geometry = right_handed(labelmap.array, labelmap.geometry)
    if not geometry.agrees_with(series.geometry, tolerance=0.01):
        raise UnusableInput(f"The segmentation does not have the geometry of the series in {series_folder}; give the series made from it.")
    present = set(np.unique(array).tolist())
    segments = [segment for segment in labelmap.segments if segment.value in present]
    if not segments:
        raise UnusableInput("The segmentation is empty, so there is nothing to write as DICOM SEG; paint or load a segmentation first.")
    numbers = np.zeros(int(array.max()) + 1, dtype=np.uint8 if len(segments) < 256 else np.uint16)
    descriptions = []
    for number, segment in enumerate(segments, start=1):
        numbers[segment.value] = number
        code, modifier = _code(segment)
        description = SegmentDescription(
            segment_number=number,
            segment_label=segment.name.replace("\\", "/")[:64],
            segmented_property_category=_concept(category_of(code)),
            segmented_property_type=_concept(code),
            algorithm_type="MANUAL",  # how the user's segments came about is not known
            display_color=CIELabColor.from_rgb(*(round(255 * min(1.0, max(0.0, c))) for c in segment.color)) if segment.color else None,
        )
        if modifier:
            kind = description.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(modifier)]
        descriptions.append(description)
    dataset = Segmentation(
        source_images=[pydicom.dcmread(file, stop_before_pixels=True) for file in series.files],
        pixel_array=numbers[array],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=pydicom.uid.generate_uid(prefix=None),
        series_number=2,
        sop_instance_uid=pydicom.uid.generate_uid(prefix=None),
        instance_number=1,
        manufacturer="CTSynthesis",
        manufacturer_model_name="CTSynthesis",
        software_versions=__version__,
        device_serial_number="none",
        content_label="CONDITION",
        content_description="Segmentation that a synthetic CT was made from",
        series_description="Segmentation of a synthetic CT",
    )
    dataset.SyntheticData = "YES"
    with written_beside(path) as part:
        dataset.save_as(part)


def _code(segment):
    if segment.code:
        return segment.code, segment.modifier
    from ..anatomy import understand

    (one,) = understand([segment])
    known = one.how != "not understood" and one.structure.code
    return (one.structure.code, one.structure.modifier) if known else (TISSUE, None)


def _concept(code):
    from highdicom.sr import CodedConcept

    scheme, value, meaning = code
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning[:64])
