"""Segmentation nodes in, volume nodes out: the scene and one warm worker brought together. No Qt.

The panel, scripts in 3D Slicer and ``ctsynthesis demo`` all generate through a :class:`Session`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import slicer

from . import scene
from .errors import UnusableInput
from .synthesis.generate import Result
from .synthesis.request import Request
from .worker import PreviewReady, Progress, Similarity, Worker


@dataclass(frozen=True)
class Generated:
    """A finished run: the ``node`` in the scene and the ``result`` (how segments were understood, assumptions, device, seconds)."""

    node: object
    result: object


class Session:
    """Generates volumes for segmentation nodes, one at a time, in a worker process that stays warm in between.

    The scene is read by :meth:`begin` and written by :meth:`poll`, both on the caller's thread; until a result is complete nothing
    is added to it, so a cancelled or failed run leaves it as it was. Closing the scene cancels the run.

    Examples
    --------
    >>> with Session() as session:                                                       # doctest: +SKIP
    ...     node = session.generate(segmentation_node, Request(seed=7)).node
    """

    def __init__(self, worker: Worker | None = None):
        self.worker = worker or Worker()
        self._segmentation = self._output = None
        self._scene_observer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def busy(self) -> bool:
        return self.worker.busy

    def begin(self, segmentation_node, request: Request | None = None, *, output=None, names=None):
        """Read the segmentation and hand it to the worker; returns as soon as the worker has it.

        Parameters
        ----------
        segmentation_node : vtkMRMLSegmentationNode
        output : vtkMRMLScalarVolumeNode, optional
            Node to overwrite; by default each run makes a new one.
        names : dict, optional
            Structure name for each segment name that the user corrected.

        Raises
        ------
        UnusableInput, SynthesisFailed
        """
        if segmentation_node is None:
            raise UnusableInput("No segmentation was given; choose one.")
        request = request or Request()
        labelmap = scene.labelmap_from_segmentation(segmentation_node)
        reference = _reference(segmentation_node) if request.outside == "reference" else None
        self.worker.submit(labelmap, request, names, reference)
        self._segmentation, self._output = segmentation_node, output
        mrml = slicer.mrmlScene
        self._scene_observer = (mrml, mrml.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, lambda *_: self.cancel()))

    def begin_preview(self, segmentation_node, labelmap, request: Request, names=None, *, look=0, shown=False):
        """Ask the worker for a preview of ``labelmap``, read from the node; :meth:`poll` returns its PreviewReady. See ``live``."""
        reference = _reference(segmentation_node) if request.outside == "reference" else None
        self.worker.submit_preview(labelmap, request, names, reference, look=look, shown=shown)

    def begin_audit(self, volume_node):
        """Ask how similar a generated volume is to the scans its model was trained on; :meth:`poll` returns the Similarity."""
        volume = scene.volume_from_node(volume_node)
        if not (model := volume.metadata.get("CTSynthesis.Model")):
            raise UnusableInput(f"'{volume_node.GetName()}' was not made by this module, so there is nothing to compare it with.")
        self.worker.submit_audit(volume, model)

    def poll(self) -> Progress | Generated | PreviewReady | Similarity | None:
        """What has happened since the last call; raises what :meth:`worker.Worker.poll` raises."""
        try:
            news = self.worker.poll()
        except Exception:
            self._forget()
            raise
        if not isinstance(news, Result):
            return news
        segmentation, output = self._segmentation, self._output
        self._forget()
        return Generated(scene.volume_node_from(news.volume, segmentation, output), news)

    def cancel(self):
        self.worker.cancel()

    def generate(self, segmentation_node, request: Request | None = None, *, output=None, names=None, progress=None) -> Generated:
        """Generate and wait; ``progress(fraction, stage)`` is called meanwhile."""
        self.begin(segmentation_node, request, output=output, names=names)
        while True:
            news = self.poll()
            if isinstance(news, Generated):
                return news
            if news is None:
                time.sleep(0.01)
            elif progress is not None:
                progress(news.fraction, news.stage)

    def close(self):
        """End the worker; a later run starts a new one."""
        self._forget()
        self.worker.close()

    def _forget(self):
        self._segmentation = self._output = None
        if self._scene_observer is not None:
            mrml, tag = self._scene_observer
            mrml.RemoveObserver(tag)
            self._scene_observer = None


def _reference(segmentation_node):
    volume = scene.source_volume(segmentation_node)
    if volume is None:
        raise UnusableInput(
            f"'{segmentation_node.GetName()}' has no source volume to take the surroundings from; set one in the Segment Editor."
        )
    if volume.GetParentTransformNode() is not segmentation_node.GetParentTransformNode():
        raise UnusableInput(
            f"'{volume.GetName()}' stands under another transform than '{segmentation_node.GetName()}'; place both under the same one."
        )
    return scene.volume_from_node(volume)
