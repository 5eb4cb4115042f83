"""The MRML scene as the engine sees it: segmentation nodes become label maps, volumes become nodes. No Qt.

A label map is made in the segmentation's own frame, as if it stood under no transform, and the volume generated from it is placed
under the same parent transform. So the result lies where the segmentation is seen, however the two are moved together afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from . import anatomy, surfaces
from .errors import SynthesisFailed, UnusableInput
from .files.codes import format_terminology, parse_terminology
from .renumber import replaced
from .volume import Geometry, LabelMap, Segment, Volume, resample

SEGMENTATION_ROLE = "CTSynthesis.Segmentation"  # node reference from a generated volume to what it was generated from
CT_WINDOW, CT_LEVEL = 350, 40  # HU, Slicer's preset CT_ABDOMEN: soft tissue


# -- segmentation node → label map ---------------------------------------------------------------------------------------------------


def visible_segments(node) -> list[tuple[str, Segment]]:
    """The visible segments of a segmentation node, each with its ID, without looking at any voxel.

    A segment's value is its place in the segmentation, counted from 1, so hiding one does not renumber the others.
    """
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    segments = []
    for place, segment_id in enumerate(segmentation.GetSegmentIDs(), start=1):
        if display is None or display.GetSegmentVisibility(segment_id):
            segments.append((segment_id, _segment(segmentation.GetSegment(segment_id), place)))
    return segments


def labelmap_from_segmentation(node, reference=None, *, empty=False) -> LabelMap:
    """The visible segments of a segmentation node as one label map.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    reference : Geometry, optional
        Grid to use, in the segmentation's own frame. Without it: the source volume's grid, else the reference geometry stored in
        the segmentation, else the smallest grid that holds all segments; ``metadata["Geometry"]`` says which.
    empty : bool
        Whether to list segments without a voxel as well: they may be painted later.

    Raises
    ------
    UnusableInput
        If there is no segment, none is visible, or the visible ones hold no voxel on the grid.
    """
    name = node.GetName()
    if not node.GetSegmentation().GetNumberOfSegments():
        raise UnusableInput(f"The segmentation '{name}' has no segments; add one and paint it in the Segment Editor.")
    visible = visible_segments(node)
    if not visible:
        raise UnusableInput(f"No segment of '{name}' is visible; show those that shall be generated (eye icon in the segment list).")
    segmentation = surfaces.with_voxels(node)
    if reference is not None:
        geometry, origin = reference, "the requested grid"
    else:
        geometry, origin = _reference_geometry(node, segmentation, [segment_id for segment_id, _ in visible])

    ranked = _ranked(visible)
    merged = _merged(segmentation, ranked, geometry)
    values, present = _values(ranked), np.zeros(len(ranked) + 1, bool)
    for plane in merged:  # one after the other: a slice fits into the processor's cache, a volume does not
        present[plane[:, 0]] = present[plane[:, 1:][plane[:, 1:] != plane[:, :-1]]] = True  # each run of a row counts once: much quicker
        plane[...] = np.take(values, plane, mode="clip")
    if not present[1:].any():
        if not any(table[layer].any() for layer, table, _ in _layers(segmentation, _precedence(ranked))):
            raise UnusableInput(f"The visible segments of '{name}' are empty; paint them before generating.")
        raise UnusableInput(f"The visible segments of '{name}' lie outside {origin}; choose another source geometry in the Segment Editor.")
    segments = [segment for place, (_, segment) in enumerate(ranked, start=1) if present[place] or empty]
    return LabelMap(merged, geometry, tuple(sorted(segments, key=lambda s: s.value)), {"Geometry": origin, "Name": name})


def read_labels(node, geometry: Geometry, values=None) -> np.ndarray:
    """The values of the visible segments on ``geometry`` (uint16, (k, j, i)), also where there are none: a quick look at a small part.

    ``values`` gives them by segment ID, and leaves the other segments out; without it a segment's value is its place.
    """
    visible = visible_segments(node)
    if values is not None:
        visible = [(key, replace(segment, value=values[key])) for key, segment in visible if key in values]
    ranked = _ranked(visible)
    return _values(ranked)[_merged(surfaces.with_voxels(node), ranked, geometry)]


def _ranked(visible):
    """Visible segments by precedence: where they overlap, the finer structure wins over its parent, and among equals the later one."""
    return sorted(visible, key=lambda item: anatomy.depth(item[1]))


def _values(ranked):
    return np.array([0, *(segment.value for _, segment in ranked)], np.uint16)


def _precedence(ranked):
    return {segment_id: place for place, (segment_id, _) in enumerate(ranked, start=1)}


def _merged(segmentation, ranked, geometry):
    """The place in ``ranked`` (from 1) of the segment at each voxel.

    Each segment gets a precedence of its own (as in LabelMap.from_masks), so that whole layers are merged at once, however many they hold.
    """
    merged = np.zeros(geometry.shape, np.uint16)
    for layer, table, grid in _layers(segmentation, _precedence(ranked)):
        if (placed := _place(layer, grid, geometry)) is not None:
            window, values = placed
            for plane, layer_plane in zip(merged[window], values, strict=True):
                np.maximum(plane, np.take(table, layer_plane, mode="wrap"), out=plane)  # a label below 0 is none of ours
    return merged


def geometry_of_segmentation(node) -> Geometry | None:
    """The grid that a segmentation node would be generated on, without looking at its voxels.

    None if there is nothing to generate, or if there are only surfaces and no grid is given: then it is known once they are converted.
    """
    visible, segmentation = visible_segments(node), node.GetSegmentation()
    if not visible or not (_given_geometry(node) or surfaces.has_voxels(segmentation)):
        return None
    try:
        return _reference_geometry(node, segmentation, [segment_id for segment_id, _ in visible])[0]
    except UnusableInput:
        return None


def source_volume(node):
    """The volume node from which the segmentation takes its geometry, or None."""
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def _segment(segment, value) -> Segment:
    entry = vtk.reference("")
    code = modifier = None
    if segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry):
        code, modifier = parse_terminology(str(entry))
    return Segment(value, segment.GetName() or f"Segment_{value}", code, modifier, tuple(segment.GetColor()))


def _given_geometry(node) -> tuple[Geometry, str] | None:
    """The grid that the node says, and whose it is."""
    volume = source_volume(node)
    # A source volume under another transform than the segmentation's is not where its grid was taken from: use the stored grid.
    if volume is not None and volume.GetImageData() and volume.GetParentTransformNode() is node.GetParentTransformNode():
        return geometry_of_node(volume), f"the grid of '{volume.GetName()}'"
    stored = node.GetSegmentation().GetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())
    return (_geometry_from_string(stored), "the segmentation's reference geometry") if stored else None


def _reference_geometry(node, segmentation, segment_ids) -> tuple[Geometry, str]:
    if given := _given_geometry(node):
        return given
    ids = vtk.vtkStringArray()
    for segment_id in segment_ids:
        ids.InsertNextValue(segment_id)
    union = segmentation.DetermineCommonLabelmapGeometry(slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS, ids)
    if not union:
        raise UnusableInput(f"The visible segments of '{node.GetName()}' are empty; paint them before generating.")
    return _geometry_from_string(union), "the smallest grid around the segments"


def _geometry_from_string(text) -> Geometry:
    matrix, extent = vtk.vtkMatrix4x4(), [0, -1, 0, -1, 0, -1]
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, matrix, extent)
    return _geometry(matrix, extent)


def _geometry(matrix, extent) -> Geometry:
    """The geometry of voxels ``extent`` (i0, i1, j0, j1, k0, k1) of the lattice with this IJK to world matrix."""
    shape = (extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1)
    lattice = slicer.util.arrayFromVTKMatrix(matrix)
    corner = lattice.copy()
    corner[:3, 3] = (lattice @ np.array([extent[0], extent[2], extent[4], 1.0]))[:3]
    return Geometry(shape, corner)


def _layers(segmentation, precedence):
    """Each image that segments share (a layer), the precedence of its segments by their labels in it, and its geometry."""
    binary = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    labels_of = {}
    for segment_id, place in precedence.items():
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(binary)
        if image is not None and image.GetNumberOfPoints():
            labels_of.setdefault(image, {})[segment.GetLabelValue()] = place
    for image, places in labels_of.items():
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        if array.dtype.itemsize >= 4:  # labels that may be any number, even a float, index no table
            new = {label: n for n, label in enumerate(sorted(places), start=1)}
            array, places = replaced(np.rint(array), new, np.uint16), {new[label]: place for label, place in places.items()}
        table = np.zeros(np.iinfo(array.dtype).max + 1, np.uint16)
        for label, place in places.items():
            if 0 < label < len(table):  # an empty segment may have any
                table[label] = place
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        yield array, table, _geometry(matrix, image.GetExtent())


def _place(layer, grid, target):
    """A ``layer`` on its ``grid`` brought to the ``target`` grid: (window of the target, values there), or None if it lies outside."""
    corners = np.array([[i, j, k, 1.0] for i, j, k in product(*[(0, n - 1) for n in grid.shape[::-1]])])
    in_target = np.linalg.solve(target.ijk_to_ras, grid.ijk_to_ras @ corners.T)[2::-1]  # (k, j, i) of the 8 corners
    margin = 1e-3 if _same_lattice(grid, target) else 1.0
    low = np.maximum(np.ceil(in_target.min(axis=1) - margin), 0).astype(int)
    high = np.minimum(np.floor(in_target.max(axis=1) + margin) + 1, target.shape).astype(int)
    if (low >= high).any():
        return None
    part = target.crop(low, tuple(high - low))
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    if margin == 1.0:
        return window, resample(layer, grid, part, labels=True)
    # the same voxels, only another crop: copy, do not interpolate
    first = np.rint(np.linalg.solve(grid.ijk_to_ras, np.append(part.origin, 1.0)))[2::-1].astype(int)
    return window, layer[tuple(slice(f, f + n) for f, n in zip(first, part.shape, strict=True))]


def _same_lattice(a: Geometry, b: Geometry) -> bool:
    if np.abs(a.ijk_to_ras[:3, :3] - b.ijk_to_ras[:3, :3]).max() * max(*a.shape, *b.shape) > 1e-2:
        return False
    offset = np.linalg.solve(b.ijk_to_ras[:3, :3], a.origin - b.origin)
    return bool(np.abs(offset - np.rint(offset)).max() < 1e-3)


# -- label map → segmentation node ---------------------------------------------------------------------------------------------------


def labelmap_to_segmentation(labelmap: LabelMap, name="Segmentation"):
    """A new segmentation node with the segments of a label map, their names, colors and codes, on the label map's grid."""
    converter = slicer.vtkSegmentationConverter
    image = _oriented_image(labelmap)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(converter.GetBinaryLabelmapRepresentationName())
    segmentation.SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(image))
    for item in labelmap.segments:
        segment = slicer.vtkSegment()
        segment.SetName(item.name)
        if item.color is not None:
            segment.SetColor(*item.color)
        if item.code is not None:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), format_terminology(item.code, item.modifier))
        segment.SetLabelValue(item.label)
        segment.AddRepresentation(converter.GetBinaryLabelmapRepresentationName(), image)  # one image, shared by all
        segmentation.AddSegment(segment)
    node.CreateDefaultDisplayNodes()
    return node


def _oriented_image(labelmap):
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(labelmap.geometry.shape[::-1])
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(labelmap.geometry.ijk_to_ras))
    largest = max((segment.label for segment in labelmap.segments), default=0)
    values = np.ascontiguousarray(labelmap.labels, dtype=np.uint8 if largest < 1 << 8 else np.int16 if largest < 1 << 15 else np.int32)
    image.GetPointData().SetScalars(numpy_to_vtk(values.ravel(), deep=True))
    return image


# -- volume → volume node ------------------------------------------------------------------------------------------------------------


def volume_node_from(volume: Volume, segmentation_node=None, output=None, kind="synthetic CT"):
    """Put a generated volume into the scene: a new node, or ``output`` if the user chose one.

    The node lies under the segmentation's parent transform, refers to the segmentation, carries the volume's metadata as attributes
    (they survive NRRD and MRML files), is shown with a soft-tissue window and stands beside the segmentation in the subject hierarchy.
    """
    scene = slicer.mrmlScene
    node = output
    if node is None or node.GetScene() is None:
        name = f"{segmentation_node.GetName()} {kind}" if segmentation_node else kind
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    image = vtk.vtkImageData()
    image.SetDimensions(volume.geometry.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(volume.array, dtype=np.int16).ravel(), deep=True))
    modified = node.StartModify()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.geometry.ijk_to_ras))
    for key in [key for key in node.GetAttributeNames() if key.startswith("CTSynthesis.")]:
        node.RemoveAttribute(key)
    for key, value in volume.metadata.items():
        node.SetAttribute(key, str(value))
    if segmentation_node is not None and segmentation_node.GetScene() is not None:
        node.SetAndObserveTransformNodeID(segmentation_node.GetTransformNodeID())
        node.SetNodeReferenceID(SEGMENTATION_ROLE, segmentation_node.GetID())
        _place_beside(node, segmentation_node)
    node.EndModify(modified)
    _show_as_ct(node)
    return node


def _show_as_ct(node):
    if node.GetDisplayNode() is None:  # made by hand: the default one would look through all voxels for a window first
        display = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
        display.UnRegister(None)
        display.SetAutoWindowLevel(False)
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        node.SetAndObserveDisplayNodeID(slicer.mrmlScene.AddNode(display).GetID())
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(CT_WINDOW, CT_LEVEL)


def voxels_changed(node):
    """Tell the views that voxels of a volume node were written in place."""
    node.GetImageData().GetPointData().GetScalars().Modified()
    node.GetImageData().Modified()
    node.Modified()


def remove_volume(node):
    """Take a volume node and what belongs to it alone out of the scene."""
    leftovers = [node.GetStorageNode(), node.GetDisplayNode()]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is not None and (place := hierarchy.GetItemByDataNode(node)):
        hierarchy.RemoveItem(place, True, False)  # with its node
    for item in (node, *leftovers):
        if item is not None and item.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(item)


def _place_beside(node, neighbor):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    beside = hierarchy.GetItemByDataNode(neighbor)
    parent = hierarchy.GetItemParent(beside) if beside else hierarchy.GetSceneItemID()
    if item := hierarchy.GetItemByDataNode(node):
        hierarchy.SetItemParent(item, parent)
    else:  # without the application's plugins nobody has made the item yet
        hierarchy.CreateItem(parent, node)


# -- volume node → volume ------------------------------------------------------------------------------------------------------------


def geometry_of_node(node) -> Geometry:
    """The grid of a volume node in its own frame, parent transforms left out."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return _geometry(matrix, node.GetImageData().GetExtent())


def volume_from_node(node) -> Volume:
    """A scalar volume node's voxels (HU) in its own frame, with its ``CTSynthesis.`` attributes as metadata."""
    if node.GetImageData() is None:
        raise UnusableInput(f"The volume '{node.GetName()}' holds no image; load or generate it first.")
    array = np.clip(np.rint(slicer.util.arrayFromVolume(node)), -32768, 32767).astype(np.int16)
    metadata = {key: node.GetAttribute(key) for key in node.GetAttributeNames() if key.startswith("CTSynthesis.")}
    return Volume(array, geometry_of_node(node), metadata)


def volume_in_world(node) -> Volume:
    """A volume node's voxels where they are seen: under transforms, a hardened copy (resampled if a transform is not linear)."""
    if node.GetParentTransformNode() is None:
        return volume_from_node(node)
    copy = slicer.vtkSlicerVolumesLogic.CloneVolume(slicer.mrmlScene, node, node.GetName(), True)
    try:
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        if not copy.HardenTransform():
            raise SynthesisFailed(f"The transform above '{node.GetName()}' cannot be applied to a volume; harden or remove it first.")
        return Volume(volume_from_node(copy).array, geometry_of_node(copy), volume_from_node(node).metadata)
    finally:
        remove_volume(copy)


def export_volume(node, path):
    """Write a volume node to an NRRD, NIfTI or MHA file so that it lies where it is seen."""
    from .files import write_volume

    write_volume(volume_in_world(node), path)


def export_dicom(node, folder):
    """Write a volume node as a DICOM CT series, marked as synthetic, into a new folder so that it lies where it is seen."""
    from .files.dicom_ct import write_ct_series

    volume = volume_in_world(node)
    return write_ct_series(volume, folder, provenance=volume.metadata)
