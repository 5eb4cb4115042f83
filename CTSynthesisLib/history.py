"""What was there before each run, so that the last one can be undone. No Qt."""

from __future__ import annotations

from dataclasses import dataclass, field

import slicer
import vtk

from . import scene


@dataclass
class Step:
    """One run: the node it wrote; for a node that had been there before, what it was; and what the slice views had shown."""

    node: object
    was_there: bool
    image: object = None
    matrix: object = None
    attributes: dict = field(default_factory=dict)
    transform: str | None = None
    source: str | None = None
    shown: str | None = None


class History:
    """Remembers the runs of one scene; ``previous`` and ``last`` are their volume nodes, if they are still there."""

    def __init__(self):
        self._steps: list[Step] = []

    def before(self, output=None, shown=None) -> Step:
        """To be called before a run, with the node that it will overwrite; the step counts once it is given to :meth:`after`."""
        step = Step(output, output is not None, shown=shown.GetID() if shown is not None else None)
        if output is not None:  # the image object itself: a run puts another in its place
            step.image, step.matrix = output.GetImageData(), vtk.vtkMatrix4x4()
            output.GetIJKToRASMatrix(step.matrix)
            step.attributes = {name: output.GetAttribute(name) for name in output.GetAttributeNames()}
            step.transform, step.source = output.GetTransformNodeID(), output.GetNodeReferenceID(scene.SEGMENTATION_ROLE)
        return step

    def after(self, step: Step, node):
        step.node = node
        self._steps.append(step)

    def clear(self):
        self._steps = []

    @property
    def last(self):
        """The node of the newest run, or None."""
        self._forget_deleted()
        return self._steps[-1].node if self._steps else None

    @property
    def previous(self):
        """What was looked at before the newest run, or None."""
        self._forget_deleted()
        shown = self._steps[-1].shown if self._steps else None
        node = slicer.mrmlScene.GetNodeByID(shown) if shown else None
        return node if node is not None and node is not self._steps[-1].node else None

    def undo(self):
        """Take the newest run back: its new node goes, an overwritten one is as it was; returns the node to look at, or None."""
        self._forget_deleted()
        if not self._steps:
            return None
        step, previous = self._steps[-1], self.previous
        self._steps.pop()
        if not step.was_there:
            scene.remove_volume(step.node)
            return previous
        node = step.node
        modified = node.StartModify()
        node.SetAndObserveImageData(step.image)
        node.SetIJKToRASMatrix(step.matrix)
        for name in node.GetAttributeNames():
            node.RemoveAttribute(name)
        for name, value in step.attributes.items():
            node.SetAttribute(name, value)
        node.SetAndObserveTransformNodeID(step.transform)
        node.SetNodeReferenceID(scene.SEGMENTATION_ROLE, step.source)
        node.EndModify(modified)
        return node

    def _forget_deleted(self):
        self._steps = [step for step in self._steps if step.node.GetScene() is not None]
