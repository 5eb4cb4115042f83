"""Contours become masks: rasterising by itself, then whole files."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.files.rtstruct import fill_even_odd
from CTSynthesisLib.volume import Geometry, Volume
from Testing.files.dicom_checks import change, real_dicom, without_preamble
from Testing.geometries import GRIDS, SHAPE


def box(low, high, j_low, j_high):
    return np.array([(low, j_low), (high, j_low), (high, j_high), (low, j_high)], float)


def test_a_voxel_belongs_where_its_center_lies():
    mask = fill_even_odd([box(1.5, 4.5, 0.5, 2.5)], (5, 7))
    assert np.argwhere(mask).tolist() == [[j, i] for j in (1, 2) for i in (2, 3, 4)]


def test_a_triangle_against_its_definition():
    corners = np.array([(1.3, 0.2), (8.7, 5.1), (2.2, 7.9)])
    mask = fill_even_odd([corners], (9, 10))
    for j in range(9):
        for i in range(10):
            edges = zip(corners, np.roll(corners, -1, 0), strict=True)
            sides = [(b[0] - a[0]) * (j - a[1]) - (b[1] - a[1]) * (i - a[0]) for a, b in edges]
            assert mask[j, i] == (min(sides) > 0 or max(sides) < 0)


def test_direction_start_and_vertices_on_centers_do_not_matter():
    polygon = np.array([(1, 1), (5, 1), (5, 4), (3, 2), (1, 4)], float)
    expected = fill_even_odd([polygon], (6, 7))
    for turn in range(5):
        assert np.array_equal(fill_even_odd([np.roll(polygon, turn, 0)], (6, 7)), expected)
        assert np.array_equal(fill_even_odd([np.roll(polygon[::-1], turn, 0)], (6, 7)), expected)
    # neighbours that share an edge share no voxel and leave none between them
    left, right = fill_even_odd([box(1, 3, 1, 4)], (6, 7)), fill_even_odd([box(3, 5, 1, 4)], (6, 7))
    assert not (left & right).any() and np.array_equal(left | right, fill_even_odd([box(1, 5, 1, 4)], (6, 7)))


def test_a_contour_within_another_is_a_hole_and_beyond_the_image_is_cut():
    mask = fill_even_odd([box(-3.5, 5.5, -2.5, 9.5), box(1.5, 3.5, 1.5, 3.5)], (6, 5))
    expected = np.ones((6, 5), bool)
    expected[2:4, 2:4] = False
    assert np.array_equal(mask, expected)


# -- files -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_structure_set(tmp_path):
    """Writes an oblique series and an RTSTRUCT: ``{name: [(k, polygon in voxels), …]} -> path``."""

    def write(structures, folder="ct", kind="CLOSED_PLANAR", grid=GRIDS["oblique"]):
        files = write_ct_series(Volume(np.zeros(grid.shape, np.int16), grid), tmp_path / folder, provenance={})
        source = pydicom.dcmread(files[0], stop_before_pixels=True)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "RTSTRUCT"
        ds.SeriesInstanceUID, series, study, frame = generate_uid(), Dataset(), Dataset(), Dataset()
        series.SeriesInstanceUID, study.RTReferencedSeriesSequence = source.SeriesInstanceUID, [series]
        frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source.FrameOfReferenceUID, [study]
        ds.ReferencedFrameOfReferenceSequence = [frame]
        ds.StructureSetROISequence, ds.ROIContourSequence = [], []
        to_lps = grid.to_lps()
        for number, (name, contours) in enumerate(structures.items()):
            roi, item = Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, item.ReferencedROINumber, item.ROIDisplayColor = number, name, number, [255, 128, 0]
            item.ContourSequence = []
            for k, polygon in contours:
                points = np.column_stack([polygon, np.full(len(polygon), k), np.ones(len(polygon))]) @ to_lps.T
                contour = Dataset()
                contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(polygon)
                contour.ContourData = [f"{x:.8f}" for x in points[:, :3].ravel()]
                item.ContourSequence.append(contour)
            ds.StructureSetROISequence.append(roi)
            ds.ROIContourSequence.append(item)
        ds.save_as(tmp_path / folder / "rs.dcm")
        return tmp_path / folder / "rs.dcm"

    return write


def test_contours_fall_on_the_slices_of_the_series(a_structure_set):
    outer, hole = box(0.5, 7.5, 0.5, 5.5), box(2.5, 4.5, 2.5, 4.5)
    labelmap = read_segmentation(a_structure_set({"lungs": [(1, outer), (2, outer), (2, hole)], "aorta": [(2, hole), (3.4, hole)]}))
    assert labelmap.geometry.agrees_with(GRIDS["oblique"], 1e-6)
    lungs, aorta = labelmap.segments
    assert (lungs.name, aorta.name) == ("lungs", "aorta") and lungs.color == pytest.approx((1, 0.5, 0), abs=0.01)
    expected = np.zeros(SHAPE, bool)
    expected[2:4, 3:5, 3:5] = True  # 3.4 belongs to slice 3
    assert np.array_equal(labelmap.mask(aorta), expected)
    assert labelmap.mask(lungs)[1].sum() == 7 * 5 and labelmap.mask(lungs)[2].sum() == 7 * 5 - 4


def test_contours_closer_together_than_the_slices_do_not_cancel(a_structure_set):
    outer = box(0.5, 7.5, 0.5, 5.5)
    labelmap = read_segmentation(a_structure_set({"lungs": [(1.9, outer), (2.3, outer), (2.6, outer)]}))
    assert labelmap.array.any(axis=(1, 2)).tolist() == [False, False, True, True, False, False]
    inner = box(2.5, 4.5, 2.5, 4.5)  # the nearest plane speaks for the slice, whichever comes first
    for order in ([(2.3, inner), (1.9, outer)], [(1.9, outer), (2.3, inner)]):
        assert read_segmentation(a_structure_set({"lungs": order}, folder=f"ct{order[0][0]}")).array[2].sum() == 7 * 5


def test_structures_without_contours_and_contours_outside_are_told(a_structure_set):
    outer = box(0.5, 7.5, 0.5, 5.5)
    labelmap = read_segmentation(a_structure_set({"lungs": [(1, outer), (9, outer)], "spleen": []}))
    assert [s.name for s in labelmap.segments] == ["lungs"]
    assert "spleen" in labelmap.metadata[NOTES] and "outside" in labelmap.metadata[NOTES]


def test_points_alone_are_no_segmentation(a_structure_set):
    with pytest.raises(UnusableInput, match="empty"):
        read_segmentation(a_structure_set({"isocenter": [(1, box(1, 2, 1, 2))]}, kind="POINT"))


def test_contours_across_the_slices_are_refused(a_structure_set):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    ds = pydicom.dcmread(path)
    data = np.reshape(np.array(ds.ROIContourSequence[0].ContourSequence[0].ContourData, float), (-1, 3))
    data[0] += 10
    ds.ROIContourSequence[0].ContourSequence[0].ContourData = [f"{x:.6f}" for x in data.ravel()]
    ds.save_as(path)
    with pytest.raises(UnusableInput, match="do not lie in the slices"):
        read_segmentation(path)


def test_the_series_is_found_beside_given_or_asked_for(a_structure_set, tmp_path):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    expected = read_segmentation(path).array
    (tmp_path / "rt").mkdir()
    moved = path.rename(tmp_path / "rt" / "rs.dcm")
    assert np.array_equal(read_segmentation(moved).array, expected)  # in a folder beside
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = moved.rename(tmp_path / "far" / "away" / "rs.dcm")
    with pytest.raises(UnusableInput, match="give its folder as the reference"):
        read_segmentation(moved)
    assert np.array_equal(read_segmentation(moved, reference=tmp_path / "ct").array, expected)
    write_ct_series(Volume(np.zeros(SHAPE, np.int16), GRIDS["axial"]), tmp_path / "other", provenance={})
    with pytest.raises(UnusableInput, match="other is not the one that .*rs.dcm belongs to"):
        read_segmentation(moved, reference=tmp_path / "other")


def test_islands_of_one_slice_are_one_plane_whatever_the_last_digits_of_their_height(a_structure_set):
    left, right = box(0.5, 2.5, 0.5, 3.5), box(4.5, 6.5, 0.5, 3.5)
    apart = 0.04 / GRIDS["oblique"].spacing[2]
    for n, (one, other) in enumerate(((2, 2 + apart), (2.005 - 1e-9, 2.005 + 1e-9), (1.98, 1.98 + apart))):
        labelmap = read_segmentation(a_structure_set({"lungs": [(one, left), (other, right)]}, folder=f"ct{n}"))
        assert labelmap.array[2].sum() == 2 * 2 * 3 and NOTES not in labelmap.metadata


def test_contours_halfway_between_slices_all_go_the_same_way(a_structure_set):
    outer = box(0.5, 7.5, 0.5, 5.5)
    contours = [(k + 0.5 + (-1) ** k * 1e-6, outer) for k in range(5)]
    labelmap = read_segmentation(a_structure_set({"lungs": contours}))
    assert labelmap.array.any(axis=(1, 2)).tolist() == [False] + [True] * 5 and NOTES not in labelmap.metadata
    labelmap = read_segmentation(a_structure_set({"lungs": [(5.5, outer)]}, folder="end"))  # half a slice beyond the last is not outside
    assert labelmap.array[5].any() and NOTES not in labelmap.metadata


def test_contours_that_are_left_out_are_told(a_structure_set):
    outer = box(0.5, 7.5, 0.5, 5.5)
    path = a_structure_set({"lungs": [(1.9, outer), (2.3, outer), (3, outer), (4, outer)], "heart": [(1, outer)]})
    ds = pydicom.dcmread(path)
    ds.ROIContourSequence[0].ContourSequence[3].ContourGeometricType = "OPEN_PLANAR"
    ds.save_as(path)
    notes = read_segmentation(path).metadata[NOTES]
    assert "1 contours were left out, because others of the same structure lie nearer to the same slice (lungs)" in notes
    assert "1 contours were left out, because they are points or open lines (lungs)" in notes


LONG = Geometry.from_spacing((20, 40, 40), (0.8, 0.8, 1.0))


def around(radius, centre=(20, 20)):
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.column_stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)])


def test_contours_in_every_third_slice_are_filled_between(a_structure_set):
    cone = [(k, around(4 + k / 2, (20.3, 19.8))) for k in (2, 5, 8, 11, 13)]  # the last one closer, as where a structure ends
    labelmap = read_segmentation(a_structure_set({"liver": cone, "body": [(k, around(18)) for k in range(20)]}, grid=LONG))
    liver, body = labelmap.segments
    area = labelmap.mask(liver).sum(axis=(1, 2))
    assert np.flatnonzero(area).tolist() == list(range(2, 14))  # nothing beyond the first and the last contour
    assert np.sqrt(area[2:14] / np.pi) == pytest.approx(4 + np.arange(2, 14) / 2, abs=0.5)  # a radius between those of its neighbours
    assert "interpolation: liver (every 3 slices)" in labelmap.metadata[NOTES] and "body" not in labelmap.metadata[NOTES]


def test_contours_of_a_coarser_grid_leave_no_slice_open(a_structure_set):
    labelmap = read_segmentation(a_structure_set({"liver": [(2 + 2.5 * n, around(8)) for n in range(6)]}, grid=LONG))
    assert np.flatnonzero(labelmap.array.any(axis=(1, 2))).tolist() == list(range(2, 16))
    assert np.ptp(labelmap.array[2:15].sum(axis=(1, 2), dtype=int)) == 0


def test_a_hole_and_islands_keep_their_place_between_contours(a_structure_set):
    contours = [(k, polygon) for k in (2, 6, 10) for polygon in (around(6, (12, 20)), around(3, (12, 20)), around(4, (30, 20)))]
    labelmap = read_segmentation(a_structure_set({"aorta": contours}, grid=LONG))
    assert all(np.array_equal(labelmap.array[k], labelmap.array[2]) for k in range(2, 11))
    assert not labelmap.array[4, 20, 12] and labelmap.array[4, 20, 8] and labelmap.array[4, 20, 30]


def test_lesions_in_separate_slices_stay_separate_and_this_is_told(a_structure_set):
    lesions = [(k, around(5)) for k in (2, 3, 4, 8, 9, 15)]
    two = [(2, around(5)), (9, around(5))]
    labelmap = read_segmentation(a_structure_set({"GTV": lesions, "liver": [(k, around(12)) for k in range(20)], "nodes": two}, grid=LONG))
    gtv = next(s for s in labelmap.segments if s.name == "GTV")
    assert {2, 3, 4, 8, 9, 15} >= set(np.flatnonzero(labelmap.mask(gtv).any(axis=(1, 2))))
    assert "slices between others were left empty: GTV, nodes" in labelmap.metadata[NOTES]


def test_two_contours_have_the_rhythm_of_the_other_structures(a_structure_set):
    structures = {"liver": [(k, around(12)) for k in range(0, 19, 3)], "gallbladder": [(6, around(3)), (9, around(3))]}
    labelmap = read_segmentation(a_structure_set(structures, grid=LONG))
    gallbladder = next(s for s in labelmap.segments if s.name == "gallbladder")
    assert np.flatnonzero(labelmap.mask(gallbladder).any(axis=(1, 2))).tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
def test_a_bare_data_set(a_structure_set, implicit):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    expected = read_segmentation(path).array
    without_preamble(path, implicit)
    assert np.array_equal(read_segmentation(path.rename(path.with_name("RS"))).array, expected)


def test_without_a_referenced_series_the_frame_of_reference_finds_it(a_structure_set, tmp_path):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    expected = read_segmentation(path).array
    ds = pydicom.dcmread(path)
    frame = ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    del ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence  # type 3: it may be missing
    ds.save_as(path)
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array, expected) and "its frame of reference fits" in labelmap.metadata[NOTES]
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = path.rename(tmp_path / "far" / "away" / "rs.dcm")
    assert np.array_equal(read_segmentation(moved, reference=tmp_path / "ct").array, expected)
    with pytest.raises(UnusableInput, match="rs.dcm were drawn on does not lie beside them; give its folder"):
        read_segmentation(moved)
    other = write_ct_series(Volume(np.zeros(SHAPE, np.int16), GRIDS["axial"]), tmp_path / "other", provenance={})
    with pytest.raises(UnusableInput, match="other is not the one that .*rs.dcm belongs to"):
        read_segmentation(moved, reference=tmp_path / "other")
    # two series of the patient in one frame of reference: one of them is meant
    for file in other:
        change(file, FrameOfReferenceUID=frame)
    moved = moved.rename(tmp_path / "rs.dcm")
    with pytest.raises(UnusableInput, match="rs.dcm does not say which series .* 2 in ct, other lie in its frame"):
        read_segmentation(moved)
    assert np.array_equal(read_segmentation(moved, reference=tmp_path / "ct").array, expected)
    for file in other:  # contours are drawn on the CT rather than on the PET beside it
        change(file, Modality="PT")
    assert np.array_equal(read_segmentation(moved).array, expected)


def test_another_frame_of_reference_or_another_series_is_told(a_structure_set, tmp_path):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    ds = pydicom.dcmread(path)
    named = ds.ReferencedFrameOfReferenceSequence[0]
    named.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    ds.save_as(path)
    assert "made on another series" in read_segmentation(path, reference=tmp_path / "ct").metadata[NOTES]
    uid = pydicom.dcmread(tmp_path / "ct" / "CT0001.dcm").SeriesInstanceUID
    named.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID, named.FrameOfReferenceUID = uid, "1.2.3"
    ds.save_as(path)
    for reference in (None, tmp_path / "ct"):
        assert "names another frame of reference" in read_segmentation(path, reference=reference).metadata[NOTES]


def test_damaged_contours_name_their_file(a_structure_set):
    path = a_structure_set({"lungs": [(1, box(0.5, 7.5, 0.5, 5.5))]})
    whole = path.read_bytes()
    ds = pydicom.dcmread(path)
    ds.ROIContourSequence[0].ContourSequence[0].ContourData = [str(n) for n in range(10)]  # three points and a third
    ds.save_as(path)
    with pytest.raises(UnusableInput, match="rs.dcm is damaged or not a complete set of contours"):
        read_segmentation(path)
    path.write_bytes(whole)
    change(path, ROIContourSequence=None)
    with pytest.raises(UnusableInput, match="rs.dcm is damaged or not a complete set of contours"):
        read_segmentation(path)


def test_real_contours():
    folder = real_dicom("ct-with-rtstruct")
    labelmap = read_segmentation(folder / "RTSTRUCT.dcm")
    (tumor,) = labelmap.segments
    assert tumor.name == "GTV-1" and labelmap.array.any(axis=(1, 2)).sum() == 7
    # the area within the contours, by the shoelace formula
    area = 0.0
    for contour in pydicom.dcmread(folder / "RTSTRUCT.dcm").ROIContourSequence[0].ContourSequence:
        x, y, _ = np.reshape(np.array(contour.ContourData, float), (-1, 3)).T
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert labelmap.array.astype(bool).sum() * labelmap.geometry.voxel_ml * 1000 == pytest.approx(area * 3.0, rel=0.02)


def test_real_contours_on_an_uneven_series_are_refused_and_read_without_the_odd_slice(tmp_path):
    folder = real_dicom("uneven-spacing-with-rtstruct")
    with pytest.raises(UnusableInput, match="unevenly spaced"):
        read_segmentation(folder / "RTSTRUCT.dcm")
    shutil.copytree(folder, tmp_path / "even")
    (tmp_path / "even" / "0000.dcm").unlink()  # the slice before the gap
    labelmap = read_segmentation(tmp_path / "even" / "RTSTRUCT.dcm")
    assert labelmap.geometry.shape[0] == 19 and labelmap.geometry.spacing[2] == pytest.approx(0.8, abs=1e-3)
    volume = {s.name: labelmap.mask(s).sum() for s in labelmap.segments}
    assert len(volume) > 25 and min(volume["aorta"], volume["esophagus"], volume["heart_ventricle_left"], volume["vertebrae_T10"]) > 100
