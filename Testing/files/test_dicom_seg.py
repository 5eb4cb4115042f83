"""DICOM SEG, written by us, by highdicom and by others."""

import numpy as np
import pydicom
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.files.dicom_seg import write_dicom_seg
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.files.dicom_checks import errors_of_dciodvfy, real_dicom
from Testing.geometries import GRIDS, SHAPE

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


def test_a_truncated_file(a_pair, capfd):
    series, path, _ = a_pair()
    content = path.read_bytes()
    for part in (0.3, 0.7, 0.999):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(UnusableInput, match="seg.dcm"):
            read_segmentation(path)


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
