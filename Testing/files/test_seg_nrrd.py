"""3D Slicer's segmentation files, written and read by its own storage node."""

import numpy as np
import pytest

from CTSynthesisLib.files import NOTES, read_segmentation, write_segmentation
from CTSynthesisLib.volume import Geometry, LabelMap, Segment
from Testing.geometries import GRIDS, SHAPE

LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
KIDNEY = LIVER.replace("10200004^Liver~^^", "64033007^Kidney~SCT^7771000^Left")


def boxes():
    """Masks on SHAPE: the nodule lies in the lungs, liver and kidney touch nothing."""
    empty = np.zeros(SHAPE, np.uint8)
    found = {name: empty.copy() for name in ("lungs", "nodule", "liver", "kidney")}
    found["lungs"][1:4, 1:5, 1:5] = 1
    found["nodule"][2, 2:4, 2:4] = 1
    found["liver"][4:5, 1:3, 1:4] = 1
    found["kidney"][1:3, 5:6, 5:8] = 1
    return found


@pytest.fixture
def a_slicer_file(a_scene, tmp_path):
    """Writes segments with 3D Slicer's storage node: ``(masks, grid) -> path``."""
    import slicer
    import slicer.util

    def write(masks, grid, crop=False, name="s.seg.nrrd", hidden=(), tags=None):
        node = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        node.CreateDefaultDisplayNodes()
        reference = slicer.util.addVolumeFromArray(np.zeros(grid.shape, np.int16), grid.ijk_to_ras, "reference")
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        for segment_id, mask in masks.items():
            node.GetSegmentation().AddEmptySegment(segment_id, segment_id, (0.2, 0.4, 0.6))
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, reference)
            if segment_id in (tags or {}):
                node.GetSegmentation().GetSegment(segment_id).SetTag("TerminologyEntry", tags[segment_id])
        for segment_id in hidden:
            node.GetDisplayNode().SetSegmentVisibility(segment_id, False)
        storage = a_scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetFileName(str(tmp_path / name))
        storage.SetCropToMinimumExtent(crop)
        assert storage.WriteData(node)
        return tmp_path / name

    return write


def mask_of(labelmap, name):
    return labelmap.mask(next(segment for segment in labelmap.segments if segment.name == name))


@pytest.mark.parametrize("crop", [False, True], ids=["whole", "cropped to the painted part"])
@pytest.mark.parametrize("grid", GRIDS)
def test_overlapping_segments_of_3d_slicer(a_slicer_file, grid, crop):
    masks = boxes()
    labelmap = read_segmentation(a_slicer_file(masks, GRIDS[grid], crop))
    assert labelmap.geometry.shape == SHAPE
    assert np.abs(labelmap.geometry.ijk_to_ras - GRIDS[grid].ijk_to_ras).max() < 1e-6
    assert np.array_equal(mask_of(labelmap, "nodule"), masks["nodule"] > 0)  # the finer structure wins over its parent
    assert np.array_equal(mask_of(labelmap, "lungs"), (masks["lungs"] > 0) & ~(masks["nodule"] > 0))
    assert np.array_equal(mask_of(labelmap, "liver"), masks["liver"] > 0)
    assert np.array_equal(mask_of(labelmap, "kidney"), masks["kidney"] > 0)
    assert NOTES not in labelmap.metadata


def test_hidden_segments_are_in_the_file_and_keep_their_names(a_slicer_file):
    """Visibility belongs to the scene; a file must not lose or rename a segment because another one was hidden."""
    masks = boxes()
    labelmap = read_segmentation(a_slicer_file(masks, GRIDS["axial"], hidden=["lungs"]))
    assert np.array_equal(mask_of(labelmap, "liver"), masks["liver"] > 0)


def test_terminology_color_and_what_says_nothing(a_slicer_file):
    labelmap = read_segmentation(a_slicer_file(boxes(), GRIDS["axial"], tags={"liver": LIVER, "kidney": KIDNEY}))
    found = {segment.name: segment for segment in labelmap.segments}
    assert found["liver"].code == ("SCT", "10200004", "Liver") and found["liver"].modifier is None
    assert found["kidney"].modifier == ("SCT", "7771000", "Left")
    assert found["liver"].color == pytest.approx((0.2, 0.4, 0.6))
    assert found["lungs"].code is None  # 3D Slicer's default 'Tissue' is no information


def test_segments_beyond_the_reference_image_are_cut_and_this_is_told(a_slicer_file, tmp_path):
    path = a_slicer_file(boxes(), GRIDS["axial"])
    content = path.read_bytes()
    wide = content.replace(b";0;8;0;6;0;5;|", b";0;8;0;6;0;3;|")  # as if the reference had four slices
    assert wide != content
    path.write_bytes(wide)
    labelmap = read_segmentation(path)
    assert labelmap.geometry.shape == (4, 7, 9) and not any(s.name == "liver" for s in labelmap.segments)
    assert "cut off" in labelmap.metadata[NOTES] and "liver" in labelmap.metadata[NOTES]


def test_a_grid_finer_than_the_reference_is_kept_and_this_is_told(a_slicer_file):
    path = a_slicer_file(boxes(), GRIDS["axial"])
    content = path.read_bytes()
    coarse = content.replace(b"|-0.7;0;0;", b"|-1.4;0;0;")
    assert coarse != content
    path.write_bytes(coarse)
    labelmap = read_segmentation(path)
    assert labelmap.geometry.agrees_with(GRIDS["axial"]) and "grid" in labelmap.metadata[NOTES]


def test_files_of_3d_slicer_before_4_11(tmp_path):
    """One layer for each segment, no label values; voxels list-first."""
    masks = boxes()
    lines = ["NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior", "sizes: 2 9 7 6"]
    lines += ["space directions: none (0.7,0,0) (0,0.7,0) (0,0,2.5)", "kinds: list domain domain domain", "encoding: raw"]
    lines += ["space origin: (-120.5,-80.25,-300)"]
    lines += ["Segment0_ID:=a", "Segment0_Name:=lungs", "Segment0_Color:=1 0 0", f"Segment0_Tags:=Status:done|TerminologyEntry:{LIVER}|"]
    lines += ["Segment1_ID:=b", "Segment1_Name:=nodule", "Segment1_Extent:=2 3 2 3 2 2", "", ""]
    voxels = np.stack([masks["lungs"], masks["nodule"]], axis=-1)
    (tmp_path / "old.seg.nrrd").write_bytes("\n".join(lines).encode() + voxels.tobytes())
    labelmap = read_segmentation(tmp_path / "old.seg.nrrd")
    assert np.array_equal(mask_of(labelmap, "nodule"), masks["nodule"] > 0)
    assert np.array_equal(labelmap.array > 0, masks["lungs"] > 0)
    assert labelmap.segments[0].code[1] == "10200004" and labelmap.geometry.agrees_with(GRIDS["axial"])


def test_retired_snomed_codes_are_brought_up_to_date(a_slicer_file):
    old = LIVER.replace("SCT^10200004", "SRT^T-62000")
    labelmap = read_segmentation(a_slicer_file(boxes(), GRIDS["axial"], tags={"liver": old}))
    assert next(s for s in labelmap.segments if s.name == "liver").code == ("SCT", "10200004", "Liver")


# -- writing ---------------------------------------------------------------------------------------------------------------------------


def a_labelmap(grid, values=(1, 2, 7)):
    labels = np.zeros(SHAPE, np.uint16)
    for n, value in enumerate(values):
        labels[2 * n : 2 * n + 2, 1:5, 2:7] = value
    segments = (
        Segment(values[0], "Leber | Stück 1", code=("SCT", "10200004", "Liver"), color=(0.8, 0.4, 0.2)),
        Segment(values[1], "kidney", code=("SCT", "64033007", "Kidney"), modifier=("SCT", "7771000", "Left")),
        Segment(values[2], "mine"),
    )
    return LabelMap(labels, grid, segments, {"CTSynthesis.Seed": "7"})


@pytest.mark.parametrize("values", [(1, 2, 7), (5, 400, 1000)])
def test_what_is_written_comes_back(tmp_path, values):
    written = a_labelmap(GRIDS["left-handed"], values)
    write_segmentation(written, tmp_path / "s.seg.nrrd")
    read = read_segmentation(tmp_path / "s.seg.nrrd")
    assert np.array_equal(read.array, written.array)
    assert np.abs(read.geometry.ijk_to_ras - written.geometry.ijk_to_ras).max() < 1e-9
    assert read.metadata == written.metadata
    for before, after in zip(written.segments, read.segments, strict=True):
        assert np.array_equal(written.mask(before), read.mask(after))
        assert (after.name, after.code, after.modifier) == (before.name, before.code, before.modifier)
    assert read.segments[0].color == pytest.approx((0.8, 0.4, 0.2))


@pytest.mark.parametrize("grid", GRIDS)
def test_3d_slicer_reads_what_is_written(a_scene, tmp_path, grid):
    import slicer
    import slicer.util
    import vtk

    written = a_labelmap(GRIDS[grid])
    write_segmentation(written, tmp_path / "s.seg.nrrd")
    node = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    storage = a_scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "s.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 3
    reference = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), GRIDS[grid].ijk_to_ras, "reference")
    for n, segment in enumerate(written.segments):
        read, tag = segmentation.GetNthSegment(n), vtk.reference("")
        assert read.GetName() == segment.name
        voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(n), reference)
        assert np.array_equal(voxels > 0, written.mask(segment))
        if segment.color:
            assert read.GetColor() == pytest.approx(segment.color)
        if segment.code:
            assert read.GetTag("TerminologyEntry", tag) and "^".join(segment.code) in tag.get()
    # and its reference geometry is the grid
    text = segmentation.GetConversionParameter("Reference image geometry")
    numbers = [float(x) for x in text.split(";") if x]
    assert np.reshape(numbers[:16], (4, 4)) == pytest.approx(GRIDS[grid].ijk_to_ras, abs=1e-9) and numbers[16:] == [0, 8, 0, 6, 0, 5]


def test_a_file_that_lacks_a_layer_is_refused(a_slicer_file):
    from CTSynthesisLib.errors import UnusableInput

    path = a_slicer_file(boxes(), GRIDS["axial"])
    path.write_bytes(path.read_bytes().replace(b"Segment1_Layer:=1", b"Segment1_Layer:=4"))
    with pytest.raises(UnusableInput, match="layer 4"):
        read_segmentation(path)


def test_a_damaged_field_is_refused(a_slicer_file):
    from CTSynthesisLib.errors import UnusableInput

    path = a_slicer_file(boxes(), GRIDS["axial"])
    path.write_bytes(path.read_bytes().replace(b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=x"))
    with pytest.raises(UnusableInput, match="LabelValue of .* is 'x'"):
        read_segmentation(path)


def test_a_large_cohort_of_segments_stays_apart(tmp_path):
    """More segments than eight bits can count."""
    geometry = Geometry.from_spacing((4, 10, 10), (1, 1, 1))
    labels = np.arange(400, dtype=np.uint16).reshape(4, 10, 10)
    write_segmentation(LabelMap(labels, geometry, tuple(Segment(v, f"s{v}") for v in range(1, 400))), tmp_path / "s.seg.nrrd")
    read = read_segmentation(tmp_path / "s.seg.nrrd")
    assert np.array_equal(read.array, labels) and read.segments[-1].name == "s399"


@pytest.fixture
def an_own_file(tmp_path):
    """Writes body (1), lung (2) and heart (3) in one layer as somebody else's software might: with these header fields changed."""

    def write(changes=(), more=None):
        labels = np.zeros(SHAPE, np.uint16)
        labels[1:5, 1:6, 1:8], labels[2:4, 2:4, 2:4], labels[2:4, 4:5, 5:7] = 1, 2, 3
        segments = tuple(Segment(n, name) for n, name in enumerate(("body", "lung", "heart"), start=1))
        metadata = {f"Segment3_{key}": value for key, value in (more or {}).items()}
        path = tmp_path / "own.seg.nrrd"
        write_segmentation(LabelMap(labels, GRIDS["axial"], segments, metadata), path)
        header, voxels = path.read_bytes().split(b"\n\n", 1)
        lines = header.decode().split("\n")
        for start, new in changes:
            assert any(line.startswith(start) for line in lines)
            lines = [new if line.startswith(start) else line for line in lines]
        path.write_bytes("\n".join(line for line in lines if line).encode() + b"\n\n" + voxels)
        return path, labels

    return write


def test_a_segment_without_a_label_in_a_shared_layer_is_refused_by_name(an_own_file):
    from CTSynthesisLib.errors import UnusableInput

    path, _ = an_own_file([("Segment2_LabelValue", "")])
    with pytest.raises(UnusableInput, match="'heart' has no label of its own beside 'body'.*LabelValue"):
        read_segmentation(path)
    path, _ = an_own_file([("Segment2_LabelValue", "Segment2_LabelValue:=1")])
    with pytest.raises(UnusableInput, match="'heart' has the label 1 of 'body'"):
        read_segmentation(path)


@pytest.mark.parametrize("value", [-1, 0, 4, 70000])
def test_an_empty_segment_may_have_any_label(an_own_file, value):
    path, labels = an_own_file(more={"ID": "k", "Name": "kidney", "LabelValue": value, "Layer": 0})
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array, labels) and [s.name for s in labelmap.segments] == ["body", "lung", "heart"]
    assert "kidney" in labelmap.metadata[NOTES]


def test_a_color_that_is_none_is_left_out_and_told(an_own_file):
    path, labels = an_own_file([("Segment2_Color:", "Segment2_Color:=red")])
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array, labels) and labelmap.segments[2].color is None and labelmap.segments[1].color
    assert "no colors: those of heart" in labelmap.metadata[NOTES]


def test_voxels_of_no_segment_are_told(an_own_file):
    path, labels = an_own_file([("Segment2_", "")])
    labelmap = read_segmentation(path)
    assert np.array_equal(labelmap.array > 0, np.isin(labels, (1, 2)))
    assert f"no segment: {(labels == 3).sum()} voxels" in labelmap.metadata[NOTES]
