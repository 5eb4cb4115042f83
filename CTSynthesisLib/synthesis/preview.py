"""Slices kept up to date while a label map is edited: only what an edit can have changed is computed.

The default models have a finite receptive field, so an edit reaches a few slices and a window of each. What depends on the whole label map
(a derived body outline, the anatomy that was filled in, grown vessels) is taken from the label map that the preview began with and stays
as it was then: voxels that have not been touched keep what they were given, touched ones get what was painted, no more. Given the same
condition, a slice equals that of the full run (in bfloat16 within the rounding of its convolutions).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..anatomy import understand
from ..errors import UnusableInput
from ..modelstore import load_card
from ..volume import LabelMap, Volume, reorder, restore
from . import generate as engine
from . import mask_cgan
from .blocks import Block
from .memory import check_memory
from .noise import SEEN, lattice_noise
from .request import FILLED, Request
from .slice_features import SliceFeatures, united


class Preview:
    """The slices of one label map under one request.

    Arrays and windows are indexed (k, j, i) as in the label map; slices are counted along :attr:`axis`, the one that runs most nearly
    from foot to head.

    Parameters
    ----------
    labelmap, request, names, reference, progress, cancelled
        As for :func:`~CTSynthesisLib.synthesis.generate.generate`.
    shown : bool
        Whether the caller shows a complete volume of this very label map and request already, so that only what changes is of interest.

    Raises
    ------
    UnusableInput
        As ``generate`` does, and if the model sees whole slices, so that an edit could change everything.
    """

    def __init__(self, labelmap: LabelMap, request: Request, *, names=None, reference: Volume | None = None, shown=False,
                 progress=None, cancelled=None):  # fmt: skip
        report = progress or (lambda fraction, stage: None)
        report(0.0, "reading the segmentation")
        card = load_card(request.model)
        if not card.receptive_field:
            raise UnusableInput(f"The model '{card.name}' sees whole slices, so it has no live preview; generate the volume instead.")
        present = set(np.unique(labelmap.array).tolist())
        everything = understand(labelmap.segments, phase=request.phase, names=names, hu=request.hu,
                                elsewhere=FILLED if request.inside == "anatomy" else ())  # fmt: skip
        understood = tuple(u for u in everything if u.segment.value in present)
        if not understood:
            raise UnusableInput("The segmentation is empty: no voxel belongs to any segment; paint something first.")
        check_memory(labelmap.array.size)
        self.geometry, self.request = labelmap.geometry, request
        self._axes, self._flips = labelmap.geometry.anatomical_axes
        self.axis = self._axes[0]
        self._surroundings = engine._surroundings(labelmap, request, reference)
        labels, sentence = engine._with_outline(labelmap, understood, request, draws_surroundings=False)
        report(0.1, "filling in what no segment says")
        if cancelled and cancelled():
            raise engine.Cancelled("The preview was cancelled.")
        axial = labelmap.geometry.reordered(self._axes, self._flips)
        self._lattice = axial.lattice_origin()
        values = np.ascontiguousarray(reorder(labels, self._axes, self._flips))
        condition, sentences = engine.condition_of(values, understood, axial, request)
        self.assumptions = (*(u.note for u in understood if u.note), *([sentence] if sentence else []), *sentences)
        self.condition, self._painted = _with_every_segment(condition, everything, present, labels, axial, request)
        self._first = np.ascontiguousarray(reorder(labelmap.array, self._axes, self._flips))  # what was painted when it began
        self._labels = self._first.copy() if self._surroundings is not None else None
        self._given = self.condition.values.copy()
        report(0.8, "loading the model")
        self.engine = mask_cgan.load(card, request.device)
        self._told = self.engine.told(self.condition)
        self._correction = self.engine.correction(self.condition.scan)
        self.device = self.engine.device
        self._pixels = card.receptive_field["pixels"] + 1  # the blur of the expected HU reaches one further
        self._slices = card.receptive_field["slices"]
        self._stale: dict[int, tuple] = {}  # slice → window ((j0, j1), (i0, i1)) that is not as it should be
        self._shown = set(range(self.count)) if shown else set()
        whole = self._aligned([(0, n) for n in self._given.shape[1:]])
        self._features = SliceFeatures(self.engine.network, self.count, whole, self._inputs)
        corner = tuple((begin, begin + self.engine.network.config.stride) for begin, _ in whole)
        self._planes = self._inputs(0, corner)[0][:, :, :1, :1]  # for what holds for the whole scan
        report(1.0, "ready")

    @property
    def count(self) -> int:
        """Number of slices along :attr:`axis`."""
        return self._given.shape[0]

    def estimate(self) -> np.ndarray:
        """The expected HU of every voxel, flat, int16 (k, j, i): what to show of slices that nobody has looked at yet."""
        return np.ascontiguousarray(restore(np.rint(self.condition.hu).astype(np.int16)[self.condition.values], self._axes, self._flips))

    def edit(self, start, labels: np.ndarray) -> None:
        """Paint ``labels`` (k, j, i), the values of segments or 0, over the block that begins at voxel ``start``."""
        window = self._axial_window(start, labels.shape)
        block = reorder(labels, self._axes, self._flips)
        if self._labels is not None:
            self._labels[window] = block
        unspecified = block == 0
        now = self._painted[np.where(unspecified, 0, block)]
        now = np.where(block == self._first[window], self._given[window], now)
        changed = np.argwhere(now != self.condition.values[window])
        if not len(changed):
            return
        self.condition.values[window] = now
        low = changed.min(0) + [w.start for w in window]
        high = changed.max(0) + [w.start for w in window]
        touched = tuple((int(a), int(b) + 1) for a, b in zip(low[1:], high[1:], strict=True))
        for k in range(low[0], high[0] + 1):
            self._features.touch(k, touched)
        spans = tuple(
            (max(int(a) - self._pixels, 0), min(int(b) + self._pixels + 1, n))
            for a, b, n in zip(low[1:], high[1:], self._given.shape[1:], strict=True)
        )
        for k in range(max(low[0] - self._slices, 0), min(high[0] + self._slices + 1, self.count)):
            if k in self._shown:
                self._stale[k] = united(self._stale[k], spans) if k in self._stale else spans

    def render(self, index: int):
        """What has changed of slice ``index`` since it was last rendered: ``(start, hu)``, int16 (k, j, i), or None if nothing has."""
        k = self._axial_slice(index)
        whole = tuple((0, n) for n in self._given.shape[1:])
        spans = self._stale.pop(k, None) if k in self._shown else whole
        if spans is None:
            return None
        self._shown.add(k)
        self._stale.pop(k, None)
        hu = self._render(k, spans)[None]
        window = (slice(k, k + 1), *(slice(*span) for span in spans))
        if self._surroundings is not None:
            hu = self._blended(hu, window)
        start = self._own_start(window)
        return start, np.ascontiguousarray(restore(hu, self._axes, self._flips))

    def waiting(self, index: int) -> int | None:
        """The slice nearest to slice ``index`` that was rendered before and is out of date; None if there is none."""
        k = self._axial_slice(index)
        return min((self._axial_slice(n) for n in self._stale), key=lambda n: abs(self._axial_slice(n) - k), default=None)

    # -- computing -------------------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _render(self, k: int, spans) -> np.ndarray:
        model, network = self.engine, self.engine.network
        reach = 2 ** len(network.config.width) + 1  # pixels, of the way up: a 3×3 convolution a level, and two more at full resolution
        outer = self._aligned([(max(a - reach, 0), min(b + reach, n)) for (a, b), n in zip(spans, self._given.shape[1:], strict=True)])
        with mask_cgan.autocast(model.device, model.dtype):
            skips, kept = self._features.skips(k, outer)
            residual, amplitude = network.finish(network.decode(skips, len(skips[-1]), kept)[None], self._planes[None])
        block = Block(((k, k + 1), *spans), ((k, k + 1), *outer))
        expected = self._told.expected(block.read(self.condition.values), model.hu_map, model.device)
        return model.finished(expected, residual[0], amplitude[0], self._noise(block), self._correction)[block.centre][0]

    @torch.inference_mode()
    def _inputs(self, n: int, window):
        """Condition and noise (1, C, h, w) that the network sees of slice ``n``."""
        model, block = self.engine, Block(((n, n + 1), *window), ((n, n + 1), *window))
        planes, _ = self._told.planes(block.read(self.condition.values), model.hu_map, model.device, model.dtype)
        return planes, self._noise(block)[list(SEEN)].transpose(0, 1).to(model.dtype)

    def _noise(self, block: Block):
        start = [origin + outer[0] for origin, outer in zip(self._lattice, block.outer, strict=True)]
        return lattice_noise(self.request.seed, start, [b - a for a, b in block.outer], device=self.engine.device)

    def _aligned(self, spans) -> list[tuple[int, int]]:
        """``spans`` along (j, i) widened to the network's pooling grid; they may reach beyond the slice."""
        stride = self.engine.network.config.stride
        return [((a + origin) // stride * stride - origin, -(-(b + origin) // stride) * stride - origin)
                for (a, b), origin in zip(spans, self._lattice[1:], strict=True)]  # fmt: skip

    def _blended(self, hu, window):
        """The part of a slice ``hu`` with the reference CT around the segments, as the full run fades the two into each other."""
        reach = [int(np.ceil(engine.FEATHER_MM / s)) + 2 for s in self.geometry.reordered(self._axes, self._flips).spacing[::-1]]
        low = [max(w.start - r, 0) for w, r in zip(window, reach, strict=True)]
        around = tuple(slice(a, min(w.stop + r, n)) for a, w, r, n in zip(low, window, reach, self._given.shape, strict=True))
        inner = tuple(slice(w.start - a, w.stop - a) for w, a in zip(window, low, strict=True))
        axial = self.geometry.reordered(self._axes, self._flips)
        labels = LabelMap(np.ascontiguousarray(self._labels[around]), axial.crop(low, self._labels[around].shape), ())
        generated = np.zeros(labels.array.shape, np.int16)
        generated[inner] = hu
        surroundings = reorder(self._surroundings, self._axes, self._flips)[around]
        return engine._blend(generated, surroundings, labels)[inner]

    # -- the label map's own axes and the axial ones -----------------------------------------------------------------------------------

    def _axial_window(self, start, shape):
        spans = []
        for axis, flip in zip(self._axes, self._flips, strict=True):
            begin = self.geometry.shape[axis] - start[axis] - shape[axis] if flip else start[axis]
            spans.append(slice(begin, begin + shape[axis]))
        return tuple(spans)

    def _own_start(self, window):
        start = [0, 0, 0]
        for axis, flip, span in zip(self._axes, self._flips, window, strict=True):
            start[axis] = self.geometry.shape[axis] - span.stop if flip else span.start
        return tuple(start)

    def _axial_slice(self, index: int) -> int:
        """The axial slice for a slice of the label map, and the other way round."""
        return self.count - 1 - index if self._flips[0] else index


def _with_every_segment(condition, everything, present, labels, axial, request):
    """The condition with a row for every segment, also for those that are empty so far, and each label's value in it.

    Value 0 of the table that comes back is the interior without a segment if an outline was derived, else air.
    """
    values = [u.segment.value for u in everything]
    size = len(condition.tissue)
    alone = np.zeros((1, 1, max(values) + 1), np.uint16)
    alone[0, 0, values] = values
    rows, _ = engine.condition_of(alone, everything, axial, replace(request, inside="plain"))
    painted = np.zeros(max(values) + 1, condition.values.dtype if condition.values.dtype != np.uint8 else np.uint16)
    for value in values:
        painted[value] = value if value in present else size + value
    outline = set(np.unique(labels).tolist()) - set(values) - {0}
    painted[0] = outline.pop() if outline else 0
    tables = [np.concatenate([getattr(condition, name), getattr(rows, name)]) for name in ("tissue", "hu", "known")]
    return replace(condition, values=condition.values.astype(np.uint16), tissue=tables[0], hu=tables[1], known=tables[2]), painted
