"""DICOM SEG, written by us, by highdicom and by others."""

import sys

import numpy as np
import pydicom
import pytest

from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.files.dicom_seg import write_dicom_seg
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.files.dicom_checks import change, errors_of_dciodvfy, real_dicom, without_preamble
from Testing.geometries import GRIDS, SHAPE

pytest.importorskip("highdicom", reason="DICOM SEG is written with highdicom, which 3D Slicer 5.10 does not bring")

SEGMENTS = (
    Segment(3, "liver", color=(0.8, 0.4, 0.2)),
    Segment(7, "left kidney", code=("SCT", "64033007", "Kidney"), modifier=("SCT", "7771000", "Left")),
    Segment(400, "mine"),
    Segment(401, "nowhere"),
)


def a_labelmap(grid):
    labels = np.zeros(SHAPE, np.uint16)
    labels[1:3, 1:4, 2:5], labels[2:4, 4:6, 1:8], labels[4, 0, 0] = 3, 7, 400
    return LabelMap(labels, GRIDS[grid], SEGMENTS)


@pytest.fixture
def a_pair(tmp_path):
    """Writes a series and its segmentation: ``grid -> (series folder, segmentation, label map)``."""

    def write(grid="oblique"):
        labelmap = a_labelmap(grid)
        write_ct_series(Volume(np.zeros(SHAPE, np.int16), GRIDS[grid]), tmp_path / "ct", provenance={})
        write_dicom_seg(labelmap, tmp_path / "ct", tmp_path / "seg.dcm")
        return tmp_path / "ct", tmp_path / "seg.dcm", labelmap

    return write


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_written_comes_back(a_pair, grid):
    series, path, written = a_pair(grid)
    read = read_segmentation(path, reference=series)
    turned = written.array[::-1] if GRIDS[grid].is_left_handed else written.array
    assert [s.name for s in read.segments] == ["liver", "left kidney", "mine"]  # what has no voxel is not written
    for before, after in zip(written.segments, read.segments, strict=False):
        assert np.array_equal(read.mask(after), turned == before.value)
    corner = read.geometry.ijk_to_ras @ [0, 0, 5 if GRIDS[grid].is_left_handed else 0, 1]
    assert corner == pytest.approx(GRIDS[grid].ijk_to_ras @ [0, 0, 0, 1], abs=1e-6)


def test_codes_and_colors(a_pair):
    _, path, _ = a_pair()
    liver, kidney, mine = read_segmentation(path).segments
    assert liver.code[:2] == ("SCT", "10200004")  # from the anatomy table, by its name
    assert kidney.code == SEGMENTS[1].code and kidney.modifier == SEGMENTS[1].modifier
    assert mine.code is None and pydicom.dcmread(path).SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert liver.color == pytest.approx((0.8, 0.4, 0.2), abs=0.01)


def test_it_refers_to_the_series_and_says_that_it_is_synthetic(a_pair):
    series, path, _ = a_pair()
    ds = pydicom.dcmread(path)
    source = [pydicom.dcmread(file) for file in sorted(series.iterdir())]
    assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == source[0].SeriesInstanceUID
    instances = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {i.ReferencedSOPInstanceUID for i in instances} == {s.SOPInstanceUID for s in source}
    assert ds.StudyInstanceUID == source[0].StudyInstanceUID and ds.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    assert ds.SyntheticData == "YES" and ds.PatientName == "SYNTHETIC^CT"


@pytest.mark.parametrize("grid", GRIDS)
def test_dciodvfy_finds_no_error(a_pair, grid):
    assert errors_of_dciodvfy(a_pair(grid)[1]) == []


def test_the_series_beside_gives_the_grid_and_without_it_the_frames_do(a_pair, tmp_path):
    series, path, written = a_pair()
    labelmap = read_segmentation(path)
    assert labelmap.geometry.agrees_with(GRIDS["oblique"]) and NOTES not in labelmap.metadata
    (tmp_path / "elsewhere").mkdir()
    alone = path.rename(tmp_path / "elsewhere" / "seg.dcm")
    series.rename(tmp_path / "elsewhere" / "hidden.part")
    for file in (tmp_path / "elsewhere" / "hidden.part").iterdir():
        file.unlink()
    labelmap = read_segmentation(alone)
    assert labelmap.geometry.agrees_with(GRIDS["oblique"].crop((1, 0, 0), (4, 7, 9)), 1e-6)
    assert np.array_equal(labelmap.array > 0, written.array[1:5] > 0) and "not found" in labelmap.metadata[NOTES]


def test_a_segmentation_in_the_folder_of_its_series(a_pair):
    series, path, _ = a_pair()
    path.rename(series / "seg.dcm")
    assert read_segmentation(series / "seg.dcm").geometry.agrees_with(GRIDS["oblique"])
    assert read_segmentation(series).geometry.agrees_with(GRIDS["oblique"])  # the folder is enough


def test_frames_that_waver_around_an_edge_of_rounding_are_of_one_orientation(a_pair):
    """0.01235 lies halfway between two ten-thousandths: 1e-9 to either side is another number only after rounding."""
    series, path, written = a_pair("axial")
    ds = pydicom.dcmread(path)
    shared = ds.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    t, cosine = 0.01235, np.sqrt(1 - 0.01235**2)
    for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = pydicom.Dataset()
        wavering = t + (-1) ** n * 1e-9
        item.ImageOrientationPatient = [f"{x:.11f}" for x in (cosine, wavering, 0, -wavering, cosine, 0)]
        frame.PlaneOrientationSequence = [item]
    ds.save_as(path)
    for file in series.iterdir():
        change(file, ImageOrientationPatient=[f"{x:.11f}" for x in (cosine, t, 0, -t, cosine, 0)])
    labelmap = read_segmentation(path)
    assert NOTES not in labelmap.metadata and np.array_equal(labelmap.array > 0, written.array > 0)
    del shared.PixelMeasuresSequence[0].PixelSpacing
    measures = shared.PixelMeasuresSequence[0]
    for n, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = pydicom.Dataset()
        item.update(measures)
        item.PixelSpacing = [0.7, 0.7 + 0.01 * n]
        frame.PixelMeasuresSequence = [item]
    ds.save_as(path)
    with pytest.raises(UnusableInput, match="frames of .*seg.dcm differ in orientation or spacing"):
        read_segmentation(path)


def measures_of(path, **attributes):
    """Change what the segmentation ``path`` says of its slices; None takes it away."""
    ds = pydicom.dcmread(path)
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for keyword, value in attributes.items():
        if value is None:
            del measures[keyword]
        else:
            setattr(measures, keyword, value)
    ds.save_as(path)


def test_the_thickness_of_slices_is_not_their_distance(tmp_path):
    """Slices of 1 mm every 10 mm, and a segmentation of them that states the thickness alone."""
    grid = Geometry.from_spacing((6, 7, 9), (0.7, 0.7, 10.0))
    labels = np.zeros(grid.shape, np.uint16)
    labels[1:5, 2:5, 2:6] = 1
    files = write_ct_series(Volume(np.zeros(grid.shape, np.int16), grid), tmp_path / "ct", provenance={})
    for file in files:
        change(file, SliceThickness=1, SpacingBetweenSlices=None)
    write_dicom_seg(LabelMap(labels, grid, (Segment(1, "liver"),)), tmp_path / "ct", tmp_path / "seg.dcm")
    measures_of(tmp_path / "seg.dcm", SliceThickness=1, SpacingBetweenSlices=None)
    labelmap = read_segmentation(tmp_path / "seg.dcm")
    assert labelmap.geometry.agrees_with(grid) and np.array_equal(labelmap.array, labels)
    (tmp_path / "far" / "away").mkdir(parents=True)
    alone = (tmp_path / "seg.dcm").rename(tmp_path / "far" / "away" / "seg.dcm")
    labelmap = read_segmentation(alone)
    assert labelmap.geometry.agrees_with(grid.crop((1, 0, 0), (4, 7, 9))) and labelmap.array.any(axis=(1, 2)).all()


def test_slices_left_out_between_frames_do_not_make_them_thicker(a_pair, tmp_path):
    """Gaps of two and of three slices: only the thickness says how thin the slices are."""
    series, path, written = a_pair("axial")
    labels = np.zeros(SHAPE, np.uint16)
    labels[0, 2:5, 2:6] = labels[2, 2:5, 2:6] = labels[5, 2:5, 2:6] = 3
    write_dicom_seg(LabelMap(labels, written.geometry, SEGMENTS), series, path)
    measures_of(path, SpacingBetweenSlices=None)
    (tmp_path / "far" / "away").mkdir(parents=True)
    labelmap = read_segmentation(path.rename(tmp_path / "far" / "away" / "seg.dcm"))
    assert labelmap.geometry.agrees_with(GRIDS["axial"]) and np.array_equal(labelmap.array > 0, labels > 0)


def test_a_single_frame_is_as_thick_as_it_says(a_pair, tmp_path):
    series, path, written = a_pair("axial")
    labels = np.zeros(SHAPE, np.uint16)
    labels[3, 2:5, 2:6] = 3
    write_dicom_seg(LabelMap(labels, written.geometry, SEGMENTS), series, path)
    (tmp_path / "far" / "away").mkdir(parents=True)
    alone = path.rename(tmp_path / "far" / "away" / "seg.dcm")
    measures_of(alone, SliceThickness=1.5, SpacingBetweenSlices=None)
    labelmap = read_segmentation(alone)
    assert labelmap.geometry.shape[0] == 1 and labelmap.geometry.spacing[2] == pytest.approx(1.5)
    measures_of(alone, SliceThickness=None)
    assert "1 mm was assumed" in read_segmentation(alone).metadata[NOTES]


def test_frames_in_every_second_slice_are_filled_between_unless_the_others_are_said_to_be_empty(a_pair, tmp_path):
    series, path, written = a_pair("axial")
    masks = np.zeros((*SHAPE, 1), np.uint8)
    masks[1::2, 1:6, 2:7] = 1
    highdicom_seg(series, masks, "BINARY", {1: "lungs"}, path, omit_empty_frames=True)
    labelmap = read_segmentation(path)
    assert np.flatnonzero(labelmap.array.any(axis=(1, 2))).tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(labelmap.array[2], labelmap.array[1]) and "interpolation: lungs (every 2 slices)" in labelmap.metadata[NOTES]
    highdicom_seg(series, masks, "BINARY", {1: "lungs"}, path, omit_empty_frames=False)
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array, masks[..., 0]) and NOTES not in labelmap.metadata


def test_another_frame_of_reference_is_told_and_another_series_refused(a_pair, tmp_path):
    series, path, written = a_pair()
    other = write_ct_series(Volume(np.zeros(SHAPE, np.int16), GRIDS["oblique"]), tmp_path / "other", provenance={})
    with pytest.raises(UnusableInput, match="other is not the one that .*seg.dcm belongs to"):
        read_segmentation(path, reference=tmp_path / "other")
    change(path, FrameOfReferenceUID=pydicom.dcmread(other[0]).FrameOfReferenceUID)
    assert "made on another series" in read_segmentation(path, reference=tmp_path / "other").metadata[NOTES]
    for reference in (None, series):
        assert "names another frame of reference" in read_segmentation(path, reference=reference).metadata[NOTES]


def test_without_a_referenced_series_the_frame_of_reference_finds_it(a_pair):
    _, path, written = a_pair()
    change(path, ReferencedSeriesSequence=None)
    labelmap = read_segmentation(path)
    assert labelmap.geometry.agrees_with(written.geometry) and "its frame of reference fits" in labelmap.metadata[NOTES]


def test_a_series_that_cannot_be_used_is_told(a_pair):
    series, path, _ = a_pair()
    (series / "CT0003.dcm").unlink()
    assert "cannot be used (The slices in" in read_segmentation(path).metadata[NOTES]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
def test_a_bare_data_set(a_pair, implicit, kind):
    series, path, _ = a_pair()
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3], labels[4, 2:4] = 1, 2
    highdicom_seg(series, labels, kind, {1: "nodule", 2: "lungs"}, path)
    without_preamble(path, implicit)
    assert np.array_equal(read_segmentation(path.rename(path.with_name("SEG"))).array, labels)


def test_another_geometry_and_nothing_to_write_are_refused(a_pair, tmp_path):
    series, _, written = a_pair()
    with pytest.raises(UnusableInput, match="geometry"):
        write_dicom_seg(a_labelmap("axial"), series, tmp_path / "x.dcm")
    with pytest.raises(UnusableInput, match="empty"):
        write_dicom_seg(LabelMap(written.array * 0, written.geometry, written.segments), series, tmp_path / "x.dcm")
    assert not (tmp_path / "x.dcm").exists()


# -- made by others --------------------------------------------------------------------------------------------------------------------


def highdicom_seg(series, pixels, kind, numbers, path, **keywords):
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    described = [
        SegmentDescription(n, name, codes.SCT.AnatomicalStructure, codes.SCT.Lung if name == "lungs" else codes.SCT.Nodule, "MANUAL")
        for n, name in numbers.items()
    ]
    source = [pydicom.dcmread(f) for f in sorted(series.iterdir())]
    ds = Segmentation(source, pixels, kind, described, generate_uid(), 3, generate_uid(), 1, "x", "x", "1", "1", **keywords)
    ds.save_as(path)
    return path


def overlapping():
    masks = np.zeros((*SHAPE, 2), np.uint8)
    masks[1:5, 1:6, 1:8, 1] = 1  # the lungs, as the second segment
    masks[2:4, 2:4, 2:4, 0] = 1  # a nodule within, as the first
    return masks


@pytest.mark.parametrize("omit", [True, False], ids=["empty frames left out", "all frames"])
def test_overlapping_segments_of_highdicom(a_pair, tmp_path, omit):
    series, _, _ = a_pair()
    masks = overlapping()
    path = highdicom_seg(series, masks, "BINARY", {1: "nodule", 2: "lungs"}, tmp_path / "o.dcm", omit_empty_frames=omit)
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array == 1, masks[..., 0] > 0)  # the finer structure wins, although it comes first
    assert np.array_equal(labelmap.array == 2, (masks[..., 1] > 0) & ~(masks[..., 0] > 0))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"], ids=["plain", "run-length"])
def test_fractional_segments(a_pair, tmp_path, syntax):
    series, _, _ = a_pair()
    fractions = np.zeros((*SHAPE, 1), np.float32)
    fractions[2, 2, 2:6, 0] = (0.2, 0.49, 0.51, 1.0)
    path = highdicom_seg(series, fractions, "FRACTIONAL", {1: "nodule"}, tmp_path / "f.dcm", transfer_syntax_uid=syntax)
    labelmap = read_segmentation(path)
    assert np.argwhere(labelmap.array).tolist() == [[2, 2, 4], [2, 2, 5]] and "half" in labelmap.metadata[NOTES]


def test_label_map_segmentations(a_pair, tmp_path):
    series, _, _ = a_pair()
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3], labels[4, 2:4] = 1, 2
    path = highdicom_seg(series, labels, "LABELMAP", {1: "nodule", 2: "lungs"}, tmp_path / "l.dcm")
    assert np.array_equal(read_segmentation(path).array, labels)


@pytest.mark.parametrize("stated", [True, False], ids=["PixelPaddingValue", "not stated"])
def test_the_background_of_a_label_map_need_not_be_0(a_pair, stated):
    series, path, _ = a_pair()
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3], labels[4, 2:4] = 1, 2
    highdicom_seg(series, labels, "LABELMAP", {1: "nodule", 2: "lungs"}, path)
    number = np.array([7, 0, 300], np.uint16)  # background, nodule, lungs
    ds = pydicom.dcmread(path)
    ds.PixelData = number[ds.pixel_array].tobytes()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    for item in ds.SegmentSequence:
        item.SegmentNumber = int(number[item.SegmentNumber])
    ds.PixelPaddingValue = 7
    if not stated:
        del ds.PixelPaddingValue
    ds.save_as(path)
    labelmap = read_segmentation(path)
    nodule, lungs = sorted(labelmap.segments, key=lambda segment: segment.name, reverse=True)
    assert (nodule.name, lungs.name) == ("nodule", "lungs")
    assert np.array_equal(labelmap.mask(nodule), labels == 1) and np.array_equal(labelmap.mask(lungs), labels == 2)


def test_fractional_segments_that_nowhere_reach_one_half_are_told(a_pair, tmp_path):
    series, path, _ = a_pair()
    fractions = np.zeros((*SHAPE, 2), np.float32)
    fractions[1:3, 2, 2:6, 0], fractions[1:3, 4, 2:6, 1] = 0.4, 1.0
    highdicom_seg(series, fractions, "FRACTIONAL", {1: "nodule", 2: "lungs"}, path)
    labelmap = read_segmentation(path)
    assert [s.name for s in labelmap.segments] == ["lungs"]
    assert "Nowhere at least one half, and so left out: nodule (at most 40%)" in labelmap.metadata[NOTES]
    highdicom_seg(series, fractions[..., :1], "FRACTIONAL", {1: "nodule"}, path)
    with pytest.raises(UnusableInput, match=r"seg.dcm holds fractional segments that nowhere reach one half: nodule \(at most 40%\)"):
        read_segmentation(path)


def test_a_truncated_file(a_pair, capfd):
    series, path, _ = a_pair()
    content = path.read_bytes()
    for part in (0.3, 0.7, 0.999):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(UnusableInput, match="seg.dcm"):
            read_segmentation(path)


def test_without_highdicom_segmentations_are_read_and_none_is_written(a_pair, monkeypatch, tmp_path):
    series, path, labelmap = a_pair()
    for name in ("highdicom", "highdicom.color", "highdicom.seg"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed: 3D Slicer brings none
    read = read_segmentation(path, reference=series)
    assert [segment.name for segment in read.segments] == ["liver", "left kidney", "mine"]
    assert {segment.color for segment in read.segments} == {None}
    with pytest.raises(SynthesisFailed, match="install highdicom"):
        write_dicom_seg(labelmap, series, tmp_path / "again.dcm")
    assert not (tmp_path / "again.dcm").exists()


def test_a_real_segmentation():
    folder = real_dicom("ct-with-seg")
    labelmap = read_segmentation(folder / "liver.dcm")
    (liver,) = labelmap.segments
    assert liver.name == "Liver" and liver.code == ("SCT", "10200004", "Liver")
    assert labelmap.geometry.shape == (3, 512, 512) and NOTES not in labelmap.metadata
    import highdicom as hd

    theirs = hd.seg.segread(folder / "liver.dcm")
    order = np.argsort([f.PlanePositionSequence[0].ImagePositionPatient[2] for f in theirs.PerFrameFunctionalGroupsSequence])
    assert np.array_equal(labelmap.array > 0, theirs.pixel_array[order] > 0)


def test_a_real_segmentation_with_overlaps_and_missing_frames():
    folder = real_dicom("ct-with-seg")
    labelmap = read_segmentation(folder / "partial_overlaps.dcm")
    ds = pydicom.dcmread(folder / "partial_overlaps.dcm")
    assert labelmap.geometry.shape == (3, 512, 512)
    union = np.zeros((512, 512), bool)
    for frame in ds.pixel_array:
        union |= frame > 0
    assert np.array_equal((labelmap.array > 0).any(axis=0), union)
    assert len(labelmap.segments) >= 4
