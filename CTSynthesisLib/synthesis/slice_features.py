"""What the generator finds in each slice on its way down, kept while a label map is edited: an edit costs its neighbourhood, no more."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..networks.slab_unet import MIXED_GOING_DOWN, SlabUNet

KEPT_BYTES = 400_000_000  # of features of slices that have not changed, for the slices beside them


@dataclass(frozen=True)
class Stage:
    """One step of the way down: the level it arrives at, and how far it reaches in pixels (a mix with neighbouring slices: not at all)."""

    level: int
    reach: int
    mixes: bool


class SliceFeatures:
    """Features of the slices of one volume, at every stage of the way down.

    Parameters
    ----------
    network : SlabUNet
    count : int
        Number of slices.
    whole : pair of (begin, end)
        Pixels along (j, i), aligned to the network's pooling grid.
    inputs : callable
        ``inputs(n, window)`` gives condition and noise, (1, C, h, w) each, of slice ``n``.
    """

    def __init__(self, network: SlabUNet, count: int, whole, inputs):
        self._network, self._count, self._whole, self._inputs = network, count, whole, inputs
        self._stages = [Stage(0, 2, False)]  # the stem reaches one pixel, and the marks of borders that it sees another
        for level in range(1, len(network.down) + 1):
            self._stages.append(Stage(level, 3 * 2 ** (level - 1), False))  # two 3×3 convolutions, the first with stride 2
            if level in MIXED_GOING_DOWN:
                self._stages.append(Stage(level, 0, True))
        self._kept: list[dict[int, torch.Tensor]] = [{} for _ in self._stages]  # (C, h, w) of whole slices
        self._touched: list[dict[int, tuple]] = [{} for _ in self._stages]  # windows in which they are not as they should be
        self._recent: dict[int, None] = {}  # slices, the one used last at the end

    def touch(self, n: int, window):
        """Slice ``n`` has changed within ``window``."""
        pixels = slices = 0
        for stage, kept, touched in zip(self._stages, self._kept, self._touched, strict=True):
            pixels, slices = pixels + stage.reach, slices + stage.mixes
            changed = self._grown(window, pixels)
            for m in range(n - slices, n + slices + 1):
                if m in kept:
                    touched[m] = united(touched[m], changed) if m in touched else changed

    def skips(self, n: int, window) -> tuple[list[torch.Tensor], slice]:
        """What :meth:`SlabUNet.decode` needs for slice ``n`` within ``window``: a tensor a level, and where ``n`` is in them."""
        low, high = max(n - 1, 0), min(n + 2, self._count)
        last = {stage.level: s for s, stage in enumerate(self._stages)}
        skips = []
        for level, s in last.items():
            wanted = range(n, n + 1) if level == 0 else range(low, high)
            skips.append(_stacked([self._cut(self._features(s, m), window, level) for m in wanted]))
        self._make_room(n)
        return skips, slice(n - low, n - low + 1)

    def _features(self, s: int, n: int) -> torch.Tensor:
        stage, kept, touched = self._stages[s], self._kept[s], self._touched[s]
        self._recent.pop(n, None)
        self._recent[n] = None
        if n not in kept:
            kept[n] = self._computed(s, n, self._whole)
        elif n in touched:
            window = self._grown(touched[n], 0)
            around = self._grown(window, stage.reach)  # near its border a part of a slice misses what lies beyond
            patch = self._computed(s, n, around)
            self._cut(kept[n], window, stage.level).copy_(self._cut(patch, window, stage.level, around))
        touched.pop(n, None)
        return kept[n]

    def _computed(self, s: int, n: int, window) -> torch.Tensor:
        stage, network = self._stages[s], self._network
        if s == 0:
            return network.first(*self._inputs(n, window))[0]
        level = self._stages[s - 1].level
        if not stage.mixes:
            return network.down[level](_stacked([self._cut(self._features(s - 1, n), window, level)]))[0]
        beside = [self._features(s - 1, m) for m in (max(n - 1, 0), n, min(n + 1, self._count - 1))]
        mix = network.mix_down[MIXED_GOING_DOWN.index(level)]
        return mix.one(*(_stacked([self._cut(x, window, level)]) for x in beside))[0]

    def _grown(self, window, pixels):
        """``window`` larger by ``pixels``, widened to the pooling grid, but no larger than the slice."""
        stride = self._network.config.stride
        return tuple(
            (begin + max((a - pixels - begin) // stride * stride, 0), min(begin - (begin - b - pixels) // stride * stride, end))
            for (a, b), (begin, end) in zip(window, self._whole, strict=True)
        )

    def _cut(self, features, window, level, whole=None):
        """The part of ``features`` (C, h, w), which cover ``whole``, that covers ``window``."""
        scale = 2**level
        spans = (slice((a - begin) // scale, (b - begin) // scale) for (a, b), (begin, _) in zip(window, whole or self._whole, strict=True))
        return features[(slice(None), *spans)]

    def _make_room(self, n: int):
        """Forget first the full resolution, which only a slice that is shown needs, then the slices that were not used for longest."""
        for m in [m for m in self._kept[0] if m != n] if self._bytes() > KEPT_BYTES else ():
            self._forget(self._stages[:1], m)
        for m in list(self._recent)[: -(2 * (len(MIXED_GOING_DOWN) + 1) + 1)]:
            if self._bytes() <= KEPT_BYTES:
                break
            self._forget(self._stages, m)
            del self._recent[m]

    def _forget(self, stages, m: int):
        for s in range(len(stages)):
            self._kept[s].pop(m, None)
            self._touched[s].pop(m, None)

    def _bytes(self) -> int:
        return sum(x.numel() * x.element_size() for kept in self._kept for x in kept.values())


def united(a, b):
    """The smallest window that holds both."""
    return tuple((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))


def _stacked(features):
    """(n, C, h, w) in the memory format that the convolutions work in."""
    x = torch.empty((len(features), *features[0].shape), dtype=features[0].dtype, device=features[0].device,
                    memory_format=torch.channels_last)  # fmt: skip
    return torch.stack(features, out=x)
