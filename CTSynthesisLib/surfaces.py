"""Segmentations that hold only surfaces (from STL, RTSTRUCT): converted to voxels when they are read, never to update a panel. No Qt."""

from __future__ import annotations

import slicer

from .errors import UnusableInput

_converted: dict = {}  # the last conversion, by the state that it was made in


def has_voxels(segmentation) -> bool:
    """Whether a vtkSegmentation holds binary label maps, so that nothing needs to be converted."""
    return segmentation.ContainsRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName())


def with_voxels(node):
    """The node's vtkSegmentation, or a copy converted to binary label maps where it holds only surfaces; the node stays as it is.

    Converting takes a second or more, so the last copy is kept until the surfaces change or :func:`forget` is called.
    """
    segmentation = node.GetSegmentation()
    if has_voxels(segmentation):
        return segmentation
    state = _state(segmentation)
    if state not in _converted:
        copy = slicer.vtkSegmentation()
        copy.DeepCopy(segmentation)
        if not copy.CreateRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()):
            name = node.GetName()
            raise UnusableInput(f"'{name}' cannot be converted to voxels; create its binary label map in the Segmentations module.")
        forget()
        _converted[state] = copy
    return _converted[state]


def forget():
    """Free the voxels of the last conversion."""
    _converted.clear()


def _state(segmentation):
    """Differs whenever a conversion would give something else: VTK gives every change of any object a time of its own."""
    source = segmentation.GetSourceRepresentationName()
    segments = [(segment_id, segmentation.GetSegment(segment_id)) for segment_id in segmentation.GetSegmentIDs()]
    surfaces = [(segment_id, segment.GetRepresentation(source)) for segment_id, segment in segments]
    return segmentation.GetMTime(), tuple((segment_id, surface and surface.GetMTime()) for segment_id, surface in surfaces)
