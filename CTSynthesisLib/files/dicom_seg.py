"""DICOM SEG: reading binary, fractional and label-map segmentations, and writing one that refers to a synthetic series."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from .. import __version__
from ..errors import SynthesisFailed, UnusableInput
from ..volume import Geometry, LabelMap, Segment
from .beside import written_beside
from .between import ALIKE, masks_between, usual_gap
from .codes import TISSUE, category_of, modern
from .dicom_ct import SYNTHETIC_DATA
from .dicom_series import SAME, Series, decoding, find_series, grid_in_lps, read_dataset, series_of
from .flatten import Flattening

_BACKGROUND = ("DCM", "125040")


@dataclass(frozen=True)
class _Frames:
    """Where the frames lie: all have one orientation and one size of pixels."""

    shape: tuple[int, int]  # rows, columns
    numbers: list[int]  # the segment of each frame; 0 in label maps, whose pixels say it
    positions: np.ndarray  # (frame, 3), LPS mm
    row: np.ndarray  # unit vector along a row
    column: np.ndarray
    spacing: tuple[float, float]  # (between rows, between columns) in mm
    between_slices: float | None  # mm, as the file states it
    thickness: float | None
    series: str | None  # what the file says that it belongs to
    reference: str | None  # the frame of reference


def read_dicom_seg(path, *, reference=None, rank=None):
    """Return ``(labelmap, notes)`` of a DICOM segmentation; frames that it leaves out are empty.

    The grid is that of the series the segmentation refers to, when that is given or lies beside and the frames fit on it; else the
    slices between the first and the last frame. Where a segment has frames in every second, third, ... slice only and nothing is said
    of those between, they are filled in by interpolation.

    Raises
    ------
    UnusableInput
        If the file is damaged, its frames make no volume, or the reference is not its series.
    """
    dataset = read_dataset(path)
    with decoding(path, "a complete DICOM segmentation"):
        segments = _segments(dataset)
        frames = _frames(dataset, path)
        kind = str(dataset.SegmentationType)
        full = int(dataset.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
    geometry, notes = _geometry(frames, path, reference)
    to_voxels = np.linalg.inv(geometry.to_lps())
    slices = np.rint(frames.positions @ to_voxels[2, :3] + to_voxels[2, 3]).astype(int).tolist()
    flat = Flattening(geometry, list(segments.values()), rank)
    places = {number: place for place, number in enumerate(segments)}
    highest = dict.fromkeys(segments, 0)
    said, shown = defaultdict(set), defaultdict(dict)  # slices that a segment has a frame for, and the frame where it has voxels there
    for frame, (number, k) in enumerate(zip(frames.numbers, slices, strict=True)):
        pixels = _pixels(dataset, frame, path)
        if kind == "LABELMAP":
            # one more, because 0 is no label of a layer but may be a segment's number
            flat.paint_layer({segment + 1: place for segment, place in places.items()}, pixels[None].astype(np.int32) + 1, (k, 0, 0))
            present = set(np.flatnonzero(np.bincount(pixels.ravel())).tolist())
            for segment in segments:
                said[segment].add(k)
            for segment in present & segments.keys():
                shown[segment][k] = frame
        elif number in segments:
            mask = pixels >= full / 2
            flat.paint(places[number], mask, k)
            said[number].add(k)
            highest[number] = max(highest[number], int(pixels.max()))
            if mask.any():
                shown[number][k] = frame

    def mask_of(segment, k):
        pixels = _pixels(dataset, shown[segment][k], path)
        return pixels == segment if kind == "LABELMAP" else pixels >= full / 2

    filled = []
    for segment, by_slice in shown.items():
        order = sorted(by_slice)
        usual = usual_gap(np.diff(order))
        for low, high in zip(order, order[1:], strict=False):
            if 1 < high - low <= ALIKE * usual and said[segment].isdisjoint(range(low + 1, high)):
                filled.append(f"{segments[segment].name} (every {usual:g} slices)")
                for k, mask in masks_between(low, mask_of(segment, low), high, mask_of(segment, high), geometry.spacing[:2]):
                    flat.paint(places[segment], mask, k)
    if filled:
        notes += (f"Between frames further apart than the slices, the slices were filled in by interpolation: {_once(filled)}.",)
    if kind == "FRACTIONAL":
        notes += ("Fractional segments were taken where they fill at least half of a voxel.",)
        low = [f"{segments[number].name} (at most {most / full:.0%})" for number, most in highest.items() if 0 < most < full / 2]
        if low and not shown:
            raise UnusableInput(
                f"{path} holds fractional segments that nowhere reach one half: {_once(low)}; export them as binary segments instead."
            )
        notes += (f"Nowhere at least one half, and so left out: {_once(low)}.",) if low else ()
    labelmap, more = flat.result()
    return labelmap, notes + more


def _once(names):
    return ", ".join(dict.fromkeys(names))


def _segments(dataset) -> dict[int, Segment]:
    """Segments by their number in the file. In label maps, PixelPaddingValue says which number is the background."""
    items = {int(item.SegmentNumber): item for item in dataset.SegmentSequence}
    if dataset.SegmentationType == "LABELMAP":
        background = dataset.get("PixelPaddingValue")
        if background is not None:
            items.pop(int(background), None)
        else:
            items = {number: item for number, item in items.items() if not _is_background(item)}
    elif 0 in items:  # only label maps have a number 0
        del items[0]
    values = {number: n for n, number in enumerate(items, start=1)} if 0 in items else {number: number for number in items}
    return {number: _segment(item, values[number]) for number, item in items.items()}


def _is_background(item):
    kind = item.get("SegmentedPropertyTypeCodeSequence")
    return bool(kind and concept(kind)[:2] == _BACKGROUND) or str(item.get("SegmentLabel")).strip().lower() == "background"


def _segment(item, value):
    kind = item.get("SegmentedPropertyTypeCodeSequence")
    modifier = kind[0].get("SegmentedPropertyTypeModifierCodeSequence") if kind else None
    color = None
    if item.get("RecommendedDisplayCIELabValue"):
        with contextlib.suppress(ModuleNotFoundError):  # without highdicom, as in 3D Slicer, the structure's own colour is taken
            from highdicom.color import CIELabColor

            color = tuple(c / 255 for c in CIELabColor.from_dicom_value(tuple(item.RecommendedDisplayCIELabValue)).to_rgb())
    return Segment(
        value,
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


def _frames(dataset, path) -> _Frames:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    per_frame = dataset.PerFrameFunctionalGroupsSequence

    def group(frame, name):
        return (frame.get(name) or shared.get(name))[0]

    positions = np.array([group(frame, "PlanePositionSequence").ImagePositionPatient for frame in per_frame], dtype=float)
    if dataset.SegmentationType == "LABELMAP":
        numbers = [0] * len(per_frame)
    else:
        numbers = [int(group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber) for frame in per_frame]
    grids = np.array([
        [*group(f, "PlaneOrientationSequence").ImageOrientationPatient, *group(f, "PixelMeasuresSequence").PixelSpacing] for f in per_frame
    ], dtype=float)  # fmt: skip
    if positions.shape[1:] != (3,) or grids.shape[1:] != (8,) or not (np.isfinite(positions).all() and np.isfinite(grids).all()):
        raise ValueError("frames that lie nowhere")
    if np.abs(grids - grids[0]).max() > SAME:
        raise UnusableInput(f"The frames of {path} differ in orientation or spacing, so they make no volume; resample it first.")
    row, column = np.reshape(grids[0, :6], (2, 3))
    measures = group(per_frame[0], "PixelMeasuresSequence")
    between, thickness = (abs(float(x)) if (x := measures.get(name)) else None for name in ("SpacingBetweenSlices", "SliceThickness"))
    shape = int(dataset.Rows), int(dataset.Columns)
    referred, reference = dataset.get("ReferencedSeriesSequence"), dataset.get("FrameOfReferenceUID")
    return _Frames(
        shape, numbers, positions, row, column, tuple(grids[0, 6:]), between, thickness,
        series=str(referred[0].SeriesInstanceUID) if referred else None, reference=str(reference) if reference else None,
    )  # fmt: skip


def _geometry(frames: _Frames, path, reference) -> tuple[Geometry, tuple[str, ...]]:
    try:
        series, notes = series_of(path, frames.series, frames.reference, reference)
    except UnusableInput as error:
        if reference is not None:
            raise
        series, notes = None, ()  # what lies beside is not usable as a volume, but the segmentation says by itself where it lies
        why = f"The series that the segmentation refers to cannot be used ({str(error).rstrip('.')})"
    else:
        why = "The series that the segmentation refers to was not found"
    if series is None:
        own, more = _own_grid(frames, path)
        return own, (f"{why}; the grid is that of the segmentation's own slices.", *more)
    if _fit_on(series, frames):
        return series.geometry, notes + series.notes
    own, more = _own_grid(frames, path)
    return own, ("The segmentation does not fit on the slices of its series; its own grid was used.", *notes, *more)


def _fit_on(series: Series, frames: _Frames) -> bool:
    """Whether the frames lie on slices of the series, no pixel further than a tenth of a pixel from its own."""
    geometry, (rows, columns) = series.geometry, frames.shape
    if (rows, columns) != geometry.shape[1:]:
        return False
    to_voxels = np.linalg.inv(geometry.to_lps())
    slices = np.rint(frames.positions @ to_voxels[2, :3] + to_voxels[2, 3]).astype(int)
    if slices.min() < 0 or slices.max() >= geometry.shape[0]:
        return False
    between_rows, between_columns = frames.spacing
    steps = to_voxels[:3, :3] @ np.column_stack([frames.row * between_columns, frames.column * between_rows])
    away = np.linalg.norm(frames.positions - series.positions[slices], axis=1)  # as the headers say it: slices may waver around the grid
    return bool(np.abs((steps - np.eye(3)[:, :2]) * (columns, rows)).max() < 0.1 and away.max() < 0.1 * geometry.spacing.min())


def _own_grid(frames: _Frames, path) -> tuple[Geometry, tuple[str, ...]]:
    """The grid from the first frame to the last, its slices as far apart as the frames' positions say."""
    normal = np.cross(frames.row, frames.column)
    along = frames.positions @ normal
    first, last = frames.positions[np.argmin(along)], frames.positions[np.argmax(along)]
    gaps = np.diff(np.sort(along))
    gaps = gaps[gaps > 0.01]  # mm; the others are frames of one slice
    between_rows, between_columns = frames.spacing
    in_plane, notes = [frames.row * between_columns, frames.column * between_rows], ()
    if len(gaps):
        usual = float(gaps[gaps < 1.5 * gaps.min()].mean())
        tried = [step for step in (frames.between_slices, usual, frames.thickness) if step]  # the thickness only where nothing else fits
    else:
        notes = () if frames.between_slices or frames.thickness else ("The only slice states no thickness; 1 mm was assumed.",)
        tried = [frames.between_slices or frames.thickness or 1.0]
    for step in tried:
        count = round(float(np.ptp(along)) / step) if len(gaps) else 0
        matrix = np.column_stack([*in_plane, (last - first) / count if count else normal * step, first])
        geometry = grid_in_lps((count + 1, *frames.shape), matrix, path)
        voxels = np.linalg.solve(matrix[:, :3], (frames.positions - first).T)
        if np.abs(voxels[:2]).max() < 0.1 and np.abs(voxels[2] - np.rint(voxels[2])).max() < 0.1:
            return geometry, notes
    raise UnusableInput(f"The slices of {path} are unevenly spaced or shifted, so they make no volume; resample it first.")


def _pixels(dataset, frame, path):
    """One frame (j, i), without unpacking the others: a hundred organs in a large series would not fit in memory."""
    size, bits = int(dataset.Rows) * int(dataset.Columns), int(dataset.get("BitsAllocated") or 0)
    with decoding(path, "a file whose pixels can be read"):
        syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)  # a bare data set has none, and is not compressed
        plain = syntax is None or (syntax.is_little_endian and not syntax.is_encapsulated)
    if bits in (1, 8, 16) and plain:
        begin, end = frame * size * bits, (frame + 1) * size * bits
        packed = memoryview(dataset.get("PixelData") or b"")[begin // 8 : (end + 7) // 8]
        if len(packed) < (end + 7) // 8 - begin // 8:
            raise UnusableInput(f"{path} is incomplete: it ends before its last frame; copy or export it again.")
        values = np.frombuffer(packed, "<u2" if bits == 16 else np.uint8)
        values = np.unpackbits(values, bitorder="little")[begin % 8 :][:size] if bits == 1 else values
        return values.reshape(dataset.Rows, dataset.Columns)
    try:
        from pydicom.pixels import pixel_array
    except ModuleNotFoundError:  # pydicom 2.4, as 3D Slicer 5.10 has it, decodes all frames at once

        def pixel_array(dataset, index):
            return dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)[index]

    try:
        return pixel_array(dataset, index=frame)
    except (RuntimeError, AttributeError, ValueError, IndexError, NotImplementedError) as error:
        raise UnusableInput(f"The frames of {path} cannot be decoded; export it without compression.") from error


def write_dicom_seg(labelmap: LabelMap, series_folder, path):
    """Write ``labelmap`` as a binary DICOM segmentation that refers to the (synthetic) series in ``series_folder``.

    A segment's own code is used, else that of the structure it was understood as, else the unspecific code Tissue.

    Raises
    ------
    UnusableInput
        If the series does not have the label map's geometry, or no voxel is labelled.
    SynthesisFailed
        If highdicom is not installed, as in 3D Slicer.
    """
    import pydicom

    try:
        from highdicom.color import CIELabColor
        from highdicom.seg import Segmentation, SegmentDescription
    except ImportError as error:  # or a pydicom that is too old for it
        raise SynthesisFailed(
            f"A DICOM SEG is written with highdicom, which cannot be used here ({error}); write the segmentation as .seg.nrrd, or install"
            " highdicom."
        ) from error

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
    dataset.add_new(SYNTHETIC_DATA, "CS", "YES")
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
