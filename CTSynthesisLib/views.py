"""What the slice views show, and which slice is looked at. The scene only, no Qt."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk

from .volume import Geometry


def show(node, *, fit=False):
    """Show a volume as the background of all slice views, alone; ``fit`` makes it as large as fits."""
    slicer.util.setSliceViewerLayers(background=node, foreground=None, foregroundOpacity=0.0, fit=fit)


def compare(node, other, share: float):
    """Show two volumes in all slice views: ``share`` 0 is ``node`` alone, 1 is ``other`` alone."""
    slicer.util.setSliceViewerLayers(background=node, foreground=other, foregroundOpacity=float(share))


def shown_volume():
    """The volume behind everything else in the slice views (the red one first), or None."""
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in sorted(composites, key=lambda node: node.GetLayoutName() != "Red"):
        node_id = composite.GetBackgroundVolumeID()
        if node := slicer.mrmlScene.GetNodeByID(node_id) if node_id else None:
            return node
    return None


def looked_at(geometry: Geometry, axis: int, node) -> int:
    """The slice of ``geometry`` along array ``axis`` that a slice view shows; the middle one if none does.

    ``geometry`` is in the frame of ``node``. Among the views the one that looks most nearly along the axis is asked, the red one first.
    """
    count = geometry.shape[axis]
    to_local = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(None, node.GetParentTransformNode(), to_local)
    to_ijk = np.linalg.inv(geometry.ijk_to_ras) @ slicer.util.arrayFromVTKMatrix(to_local)
    best, index = 0.7, count // 2
    views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    for view in sorted(views, key=lambda view: view.GetName() != "Red"):
        plane = to_ijk @ slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        normal = np.cross(plane[:3, 0], plane[:3, 1])
        along = abs(normal[2 - axis]) / max(np.linalg.norm(normal), 1e-12)
        if along > best + 1e-6:
            best, index = along, round(plane[2 - axis, 3])
    return int(min(max(index, 0), count - 1))


def crossing() -> np.ndarray | None:
    """The point (RAS, mm) where the planes of the slice views meet; None where they meet in none."""
    planes = [slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()) for view in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
    normals = np.array([plane[:3, 2] for plane in planes]).reshape(-1, 3)
    if np.linalg.matrix_rank(normals, tol=0.1) < 3:
        return None
    return np.linalg.lstsq(normals, np.array([normal @ plane[:3, 3] for normal, plane in zip(normals, planes, strict=True)]), rcond=None)[0]
