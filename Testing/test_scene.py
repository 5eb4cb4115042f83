"""The scene adapter on the real MRML scene: label maps out of segmentation nodes, volume nodes in, geometry exact throughout."""

import json
import types

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
import vtk.util.numpy_support

from CTSynthesisLib import scene, views
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_volume
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume, resample
from Testing.phantom import thorax

TISSUE = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"


def a_volume(geometry, seed=0):
    array = np.random.default_rng(seed).integers(-1000, 1500, geometry.shape).astype(np.int16)
    return Volume(array, geometry, {"CTSynthesis.Synthetic": "1", "CTSynthesis.Seed": "7", "CTSynthesis.Request": json.dumps({"seed": 7})})


def a_transform(matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    slicer.util.updateTransformMatrixFromArray(node, matrix)
    return node


def a_bending_transform():
    """A thin-plate spline that leaves the corners of a large box alone and shifts its middle by 25 mm."""
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for x in (-400, 400):
        for y in (-400, 400):
            for z in (-1400, -400):
                source.InsertNextPoint(x, y, z)
                target.InsertNextPoint(x, y, z)
    source.InsertNextPoint(0, 0, -900)
    target.InsertNextPoint(25, 0, -900)
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    return node


def add_segment(node, name, mask, geometry, color=(1, 0, 0)):
    """Add a segment with a layer of its own, so that it may overlap the others."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(geometry.shape[::-1])
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    image.GetPointData().SetScalars(vtk.util.numpy_support.numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True))
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*color)
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment)
    return node.GetSegmentation().GetSegmentIdBySegment(segment)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# -- segmentation node → label map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["a_labelmap", "an_oblique_labelmap"])
def test_a_label_map_survives_the_way_through_a_segmentation_node(request, a_scene, which):
    labelmap = request.getfixturevalue(which)
    back = scene.labelmap_from_segmentation(scene.labelmap_to_segmentation(labelmap))
    assert np.array_equal(back.array, labelmap.array)
    assert np.abs(back.geometry.ijk_to_ras - labelmap.geometry.ijk_to_ras).max() < 1e-6
    assert [(s.value, s.name, s.code) for s in back.segments] == [(s.value, s.name, s.code) for s in labelmap.segments]
    assert np.allclose([s.color for s in back.segments], [s.color for s in labelmap.segments])


def test_codes_and_laterality_are_read_from_the_terminology(a_segmentation_node):
    segment = a_segmentation_node.GetSegmentation().GetNthSegment(1)
    segment.SetTag("TerminologyEntry", f"{TISSUE}~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes~^^~^^")
    read = scene.labelmap_from_segmentation(a_segmentation_node).segments[1]
    assert read.code == ("SCT", "64033007", "Kidney")
    assert read.modifier == ("SCT", "7771000", "Left")


def test_hiding_a_segment_leaves_the_numbers_of_the_others(a_segmentation_node, a_labelmap):
    hidden = a_segmentation_node.GetSegmentation().GetNthSegmentID(1)
    a_segmentation_node.GetDisplayNode().SetSegmentVisibility(hidden, False)
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    assert [s.value for s in labelmap.segments] == [1, 3, 4, 5, 6]
    assert not (labelmap.array == 2).any()
    assert np.array_equal(labelmap.array == 4, a_labelmap.array == 4)


def test_the_finer_structure_wins_where_segments_overlap(a_scene):
    geometry = Geometry.from_spacing((6, 10, 10), (2, 2, 2))
    heart, ventricle = np.zeros(geometry.shape, bool), np.zeros(geometry.shape, bool)
    heart[1:5, 2:8, 2:8] = True
    ventricle[2:4, 4:6, 4:6] = True
    node = scene.labelmap_to_segmentation(LabelMap(np.zeros(geometry.shape, np.uint16), geometry, ()))
    add_segment(node, "heart_ventricle_left", ventricle, geometry)
    add_segment(node, "heart", heart, geometry)  # later in the list, and around the ventricle
    labelmap = scene.labelmap_from_segmentation(node)
    assert np.array_equal(labelmap.array == 1, ventricle)
    assert np.array_equal(labelmap.array == 2, heart & ~ventricle)


def test_the_grid_is_that_of_the_source_volume(a_segmentation_node, a_labelmap):
    finer = a_labelmap.geometry.with_spacing((6.0, 6.0, 7.5))
    ct = scene.volume_node_from(a_volume(finer))
    a_segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    assert labelmap.geometry.agrees_with(finer)
    # each coarse voxel is eight fine ones
    assert np.array_equal(labelmap.array, a_labelmap.array.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_segments_may_lie_partly_outside_the_source_volume(a_segmentation_node, a_labelmap):
    crop = a_labelmap.geometry.crop((2, 5, -3), (4, 12, 20))
    a_segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(scene.volume_node_from(a_volume(crop)))
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    expected = np.pad(a_labelmap.array, ((0, 0), (0, 0), (3, 0)))[2:6, 5:17, :20]
    assert np.array_equal(labelmap.array, expected)


def test_without_reference_geometry_the_smallest_grid_around_the_segments_is_used(a_scene):
    geometry = Geometry.from_spacing((20, 30, 40), (2, 2, 3))
    mask = np.zeros(geometry.shape, bool)
    mask[5:9, 10:16, 20:31] = True
    node = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Painted")
    add_segment(node, "liver", mask, geometry)
    labelmap = scene.labelmap_from_segmentation(node)
    assert labelmap.geometry.agrees_with(geometry.crop((5, 10, 20), (4, 6, 11)))
    assert (labelmap.array == 1).all()


def test_a_segmentation_of_surfaces_is_converted_in_a_copy(a_segmentation_node, a_labelmap):
    segmentation = a_segmentation_node.GetSegmentation()
    segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    lung = a_labelmap.array == 2
    overlap = 2 * ((labelmap.array == 2) & lung).sum() / ((labelmap.array == 2).sum() + lung.sum())
    assert overlap > 0.8
    assert not segmentation.ContainsRepresentation("Binary labelmap")


def test_unusable_segmentations_get_one_sentence(a_scene, a_segmentation_node, a_labelmap):
    empty = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(UnusableInput, match="'Empty' has no segments"):
        scene.labelmap_from_segmentation(empty)
    empty.GetSegmentation().AddEmptySegment("liver")
    with pytest.raises(UnusableInput, match="segments of 'Empty' are empty"):
        scene.labelmap_from_segmentation(empty)
    with pytest.raises(UnusableInput, match="'Thorax' lie outside the requested grid"):
        scene.labelmap_from_segmentation(a_segmentation_node, Geometry.from_spacing((5, 5, 5), (1, 1, 1), (5000, 0, 0)))
    a_segmentation_node.GetDisplayNode().SetAllSegmentsVisibility(False)
    with pytest.raises(UnusableInput, match="No segment of 'Thorax' is visible"):
        scene.labelmap_from_segmentation(a_segmentation_node)


# -- volume → node -------------------------------------------------------------------------------------------------------------------


def test_the_volume_node_lies_exactly_where_the_segmentation_does(a_scene, an_oblique_labelmap):
    segmentation = scene.labelmap_to_segmentation(an_oblique_labelmap, "Oblique")
    volume = a_volume(scene.labelmap_from_segmentation(segmentation).geometry)
    node = scene.volume_node_from(volume, segmentation)
    assert np.abs(scene.geometry_of_node(node).ijk_to_ras - an_oblique_labelmap.geometry.ijk_to_ras).max() < 1e-6
    assert np.array_equal(slicer.util.arrayFromVolume(node), volume.array)
    assert slicer.util.arrayFromVolume(node).dtype == np.int16


def test_the_volume_node_is_dressed_as_users_expect(a_segmentation_node, a_labelmap):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, a_segmentation_node)
    node = scene.volume_node_from(a_volume(a_labelmap.geometry), a_segmentation_node)
    display = node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (350, 40, 0)
    assert node.GetNodeReference("CTSynthesis.Segmentation") is a_segmentation_node
    assert node.GetAttribute("CTSynthesis.Synthetic") == "1"
    assert node.GetName() == "Thorax synthetic CT"
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_each_run_makes_a_new_node_unless_one_was_chosen(a_segmentation_node, a_labelmap):
    first = scene.volume_node_from(a_volume(a_labelmap.geometry, 1), a_segmentation_node)
    second = scene.volume_node_from(a_volume(a_labelmap.geometry, 2), a_segmentation_node)
    assert second is not first and second.GetName() != first.GetName()
    third = scene.volume_node_from(a_volume(a_labelmap.geometry, 3), a_segmentation_node, output=first)
    assert third is first
    assert np.array_equal(slicer.util.arrayFromVolume(first), a_volume(a_labelmap.geometry, 3).array)


def test_slice_views_show_the_volume(a_segmentation_node, a_labelmap, monkeypatch):
    without_layout = types.SimpleNamespace(layoutManager=lambda: None)  # stand-in for the application, which is absent here
    monkeypatch.setattr(slicer, "app", without_layout, raising=False)
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    node = scene.volume_node_from(a_volume(a_labelmap.geometry), a_segmentation_node)
    views.show(node, fit=True)
    assert composite.GetBackgroundVolumeID() == node.GetID()


# -- transforms ----------------------------------------------------------------------------------------------------------------------

TURN = np.array([[0, -1, 0, 40], [1, 0, 0, -20], [0, 0, 1, 300], [0, 0, 0, 1]], float)


def test_a_linear_transform_moves_the_result_with_the_segmentation(a_segmentation_node, a_labelmap, tmp_path):
    a_segmentation_node.SetAndObserveTransformNodeID(a_transform(TURN).GetID())
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    assert labelmap.geometry.agrees_with(a_labelmap.geometry)
    assert np.array_equal(labelmap.array, a_labelmap.array)
    volume = a_volume(labelmap.geometry)
    node = scene.volume_node_from(volume, a_segmentation_node)
    assert node.GetParentTransformNode() is a_segmentation_node.GetParentTransformNode()
    assert scene.geometry_of_node(node).agrees_with(a_labelmap.geometry)

    scene.export_volume(node, tmp_path / "ct.nrrd")
    written = read_volume(tmp_path / "ct.nrrd")
    assert np.abs(written.geometry.ijk_to_ras - TURN @ a_labelmap.geometry.ijk_to_ras).max() < 1e-6
    assert np.array_equal(written.array, volume.array)
    assert written.metadata["CTSynthesis.Seed"] == "7"


def test_a_nonlinear_transform_is_applied_when_exporting(a_scene):
    labelmap = thorax()
    segmentation = scene.labelmap_to_segmentation(labelmap, "Bent")
    segmentation.SetAndObserveTransformNodeID(a_bending_transform().GetID())
    assert np.array_equal(scene.labelmap_from_segmentation(segmentation).array, labelmap.array)
    heart = labelmap.array == 4
    node = scene.volume_node_from(Volume(np.where(heart, 1000, -1000).astype(np.int16), labelmap.geometry), segmentation)
    seen = scene.volume_in_world(node)
    assert dice(seen.array > 0, resample(heart.astype(np.uint8), labelmap.geometry, seen.geometry, labels=True) > 0) < 0.9
    segmentation.HardenTransform()  # now the segmentation's voxels, too, are where they were seen
    assert dice(seen.array > 0, scene.labelmap_from_segmentation(segmentation, seen.geometry).array == 4) > 0.95


def test_exporting_leaves_the_scene_as_it_was(a_segmentation_node, a_labelmap, tmp_path):
    a_segmentation_node.SetAndObserveTransformNodeID(a_transform(TURN).GetID())
    node = scene.volume_node_from(a_volume(a_labelmap.geometry), a_segmentation_node)
    before = [slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    scene.export_volume(node, tmp_path / "ct.nii.gz")
    assert [slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())] == before
    assert node.GetParentTransformNode() is not None


def test_a_source_volume_under_the_same_transform_gives_its_grid(a_segmentation_node, a_labelmap):
    ct = scene.volume_node_from(a_volume(a_labelmap.geometry.crop((1, 2, 3), (5, 10, 12))))
    a_segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    transform = a_transform(TURN).GetID()
    for node in (ct, a_segmentation_node):
        node.SetAndObserveTransformNodeID(transform)
    labelmap = scene.labelmap_from_segmentation(a_segmentation_node)
    assert labelmap.geometry.agrees_with(scene.geometry_of_node(ct))
    # moved away from its source volume, a segmentation keeps the grid it was painted on
    ct.SetAndObserveTransformNodeID(None)
    assert scene.labelmap_from_segmentation(a_segmentation_node).geometry.agrees_with(labelmap.geometry)


def test_a_segment_that_is_not_there_is_left_out(a_segmentation_node):
    a_segmentation_node.GetSegmentation().AddEmptySegment("", "spleen")
    assert Segment(7, "spleen") not in scene.labelmap_from_segmentation(a_segmentation_node).segments
    assert [segment.name for _, segment in scene.visible_segments(a_segmentation_node)][-1] == "spleen"


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_layer_of_large_labels_or_floats(a_scene, dtype):
    """As 3D Slicer imports a label map of an ontology's identifiers: values that index no table, and an empty segment with one more."""
    labels = np.zeros((4, 5, 6), np.int32)
    labels[1:3, 1:4, 1:5], labels[2, 2, 2] = 2_000_000_000 if dtype == np.int32 else 9_000_000, 7
    geometry = Geometry.from_spacing(labels.shape, (2, 2, 3))
    names = {int(labels.max()): "body", 7: "heart"}
    node = scene.labelmap_to_segmentation(LabelMap.from_labels(labels, geometry, [Segment(v, n) for v, n in names.items()]))
    assert {node.GetSegmentation().GetNthSegment(n).GetLabelValue() for n in range(2)} == set(names)  # the user's values
    segments = [node.GetSegmentation().GetNthSegment(n) for n in range(2)]
    image = segments[0].GetRepresentation("Binary labelmap")
    image.GetPointData().SetScalars(vtk.util.numpy_support.numpy_to_vtk(labels.astype(dtype).ravel(), deep=True))
    node.GetSegmentation().AddEmptySegment("empty", "empty")
    empty = node.GetSegmentation().GetSegment("empty")
    empty.AddRepresentation("Binary labelmap", image)
    empty.SetLabelValue(-5)
    read = scene.labelmap_from_segmentation(node)
    for value, name in names.items():
        (segment,) = (s for s in read.segments if s.name == name)
        assert np.array_equal(read.mask(segment), labels == value)
