"""The live preview of a segmentation node: what is painted reaches the worker in small pieces, and slices come back into a volume node.

No Qt: whoever has an event loop calls :meth:`LivePreview.tick` a few dozen times a second and :meth:`LivePreview.touched` when the
segmentation has changed.
"""

from __future__ import annotations

import time

import numpy as np
import slicer

from . import scene, views
from .volume import Segment, Volume
from .worker import PreviewReady

STEP_SECONDS = 0.015  # of reading the segmentation between two looks at the event loop
SLAB_VOXELS = 2_500_000  # read at once: some milliseconds


class LivePreview:
    """One preview at a time, on a session's worker.

    Attributes
    ----------
    node : vtkMRMLScalarVolumeNode or None
        The preview volume; it belongs to the preview and goes with it.
    latency : float or None
        Seconds from the newest answered stroke to its slice.
    deleted : bool
        Whether it ended because somebody deleted its volume.
    """

    def __init__(self, session):
        self.session = session
        self.node = self.latency = None
        self.deleted = False
        self._known: dict[str, Segment] = {}  # what the worker knows, by the segment's ID
        self.assumptions: tuple[str, ...] = ()
        self._segmentation = self._labels = self._geometry = None
        self._axis, self._looked_at = 0, None
        self._slabs: list[int] = []  # where the segmentation is still to be compared with what the worker knows
        self._asked: dict[int, float] = {}  # number of an edit → when it was made
        self._touched_at = None

    @property
    def active(self) -> bool:
        return self._segmentation is not None

    @property
    def starting(self) -> bool:
        return self.active and self._labels is not None and self.node is None

    @property
    def outdated(self) -> bool:
        """Whether there is a visible segment that the worker does not know, or knows as another structure: it must begin anew."""
        if not self.active or self._segmentation.GetScene() is None:
            return False
        return any(_meaning(self._known.get(key)) != _meaning(segment) for key, segment in scene.visible_segments(self._segmentation))

    def begin(self, segmentation_node, request, names=None, like=None):
        """Start; the slices come once :meth:`take` has got the worker's :class:`~CTSynthesisLib.worker.PreviewReady`.

        ``like`` is a volume node that was generated from this very segmentation and request; then all slices are there from the start.

        Raises
        ------
        UnusableInput, SynthesisFailed
        """
        self.end()
        self.deleted, self._known = False, dict(scene.visible_segments(segmentation_node))
        labelmap = scene.labelmap_from_segmentation(segmentation_node, empty=True)
        self._axis = labelmap.geometry.anatomical_axes[0][0]
        like = like if like is not None and like.GetScene() and scene.geometry_of_node(like).agrees_with(labelmap.geometry) else None
        self._like = scene.volume_from_node(like) if like else None
        look = self._look(labelmap.geometry, segmentation_node)
        self.session.begin_preview(segmentation_node, labelmap, request, names, look=look, shown=like is not None)
        self._segmentation, self._geometry, self._labels = segmentation_node, labelmap.geometry, labelmap.array
        self._looked_at, self._request = look, request

    def take(self, ready: PreviewReady):
        """Make the preview volume, for the caller to show; called with what the session's poll has brought."""
        if not self.active:
            return
        array = self._like.array if self._like is not None else ready.estimate
        metadata = {"CTSynthesis.Synthetic": "1", "CTSynthesis.Preview": "1", "CTSynthesis.Request": self._request.to_json()}
        self._like, self.assumptions, self._axis = None, ready.assumptions, ready.axis
        self.node = scene.volume_node_from(Volume(array, self._geometry, metadata), self._segmentation, kind="live preview")
        self.touched()  # it may have been painted meanwhile

    def touched(self):
        """The segmentation has changed; where, is found out in :meth:`tick`."""
        if self.active and self.node is not None:
            look = self._look(self._geometry, self._segmentation)
            count = self._geometry.shape[self._axis]
            thickness = self._slab_thickness()
            centre = min(max(look - thickness // 2, 0), max(count - thickness, 0))
            rest = range(0, count, thickness)
            self._slabs = [centre, *sorted(rest, key=lambda first: abs(first + thickness / 2 - look))]
            self._touched_at = time.monotonic()

    def tick(self) -> bool:
        """Read some more of the segmentation, follow the slice views, show what has come; True if a slice was updated."""
        if self.node is None:
            return False
        if self.node.GetScene() is None or self._segmentation.GetScene() is None:  # one of them was deleted
            self.deleted = self.node.GetScene() is None
            self.end()
            return False
        worker = self.session.worker
        if not worker.previewing:  # it has died, or gave its memory back; the next stroke begins anew
            return self._lost()
        deadline = time.monotonic() + STEP_SECONDS
        while self._slabs and time.monotonic() < deadline:
            self._compare(self._slabs.pop(0))
        look = self._look(self._geometry, self._segmentation)
        if look != self._looked_at:
            self._looked_at = look
            worker.edit(look)
        return self._show(worker)

    def end(self):
        """Stop, and take the preview volume out of the scene."""
        if self.active:
            self.session.worker.forget_preview()
        if self.node is not None and self.node.GetScene() is not None:
            scene.remove_volume(self.node)
        self.node = self._segmentation = self._labels = self._geometry = self._like = None
        self._slabs, self._asked = [], {}

    def _lost(self) -> bool:
        self.end()
        return False

    def _show(self, worker) -> bool:
        pieces, worker.slices = worker.slices, []
        if not pieces:
            return False
        volume = slicer.util.arrayFromVolume(self.node)
        for piece in pieces:
            volume[tuple(slice(s, s + n) for s, n in zip(piece.start, piece.array.shape, strict=True))] = piece.array
        scene.voxels_changed(self.node)
        newest = pieces[-1].edits
        answered = [number for number in self._asked if number <= newest]
        if answered:
            self.latency = time.monotonic() - self._asked[max(answered)]
        for number in answered:
            del self._asked[number]
        return True

    def _compare(self, first):
        """Tell the worker what differs from what it knows in the slab that begins at slice ``first``."""
        start, shape = [0, 0, 0], list(self._geometry.shape)
        start[self._axis] = first
        shape[self._axis] = min(self._slab_thickness(), shape[self._axis] - first)
        window = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        known = {key: segment.value for key, segment in self._known.items()}
        now = scene.read_labels(self._segmentation, self._geometry.crop(start, shape), known)
        differs = now != self._labels[window]
        if not differs.any():
            return
        spans = []
        for axis in range(3):
            places = np.flatnonzero(differs.any(axis=tuple(other for other in range(3) if other != axis)))
            spans.append(slice(int(places[0]), int(places[-1]) + 1))
        changed = now[tuple(spans)]
        self._labels[window][tuple(spans)] = changed
        self._looked_at = self._look(self._geometry, self._segmentation)
        begin = [s + span.start for s, span in zip(start, spans, strict=True)]
        self._asked[self.session.worker.edit(self._looked_at, begin, changed)] = self._touched_at

    def _slab_thickness(self):
        in_plane = int(np.prod(self._geometry.shape)) // self._geometry.shape[self._axis]
        return int(min(max(SLAB_VOXELS // in_plane, 1), 16, self._geometry.shape[self._axis]))

    def _look(self, geometry, segmentation_node):
        return views.looked_at(geometry, self._axis, segmentation_node)


def _meaning(segment):
    """What decides how a segment is drawn; its colour and its place among the others do not."""
    return segment and (segment.name, segment.code, segment.modifier)
