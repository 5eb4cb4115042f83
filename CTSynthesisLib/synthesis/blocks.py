"""Cutting a volume into blocks that overlap by the network's receptive field, so that they join without seams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

VOXELS_AT_ONCE = 5_400_000  # of a block with its margin: about 1.9 GB of activations in bfloat16
LARGEST_SIDE = 1024  # pixels of a block in-plane


@dataclass(frozen=True)
class Block:
    """One block: ``inner`` is what it contributes, ``outer`` what the network must see for it; (start, stop) along (k, j, i).

    ``outer`` may reach beyond the volume in-plane, because it begins and ends on the network's pooling grid.
    """

    inner: tuple[tuple[int, int], ...]
    outer: tuple[tuple[int, int], ...]

    @property
    def window(self) -> tuple[slice, ...]:
        """Where the block goes in the volume."""
        return tuple(slice(*span) for span in self.inner)

    @property
    def centre(self) -> tuple[slice, ...]:
        """Where ``inner`` lies within ``outer``."""
        return tuple(slice(i[0] - o[0], i[1] - o[0]) for i, o in zip(self.inner, self.outer, strict=True))

    @property
    def size(self) -> int:
        """Voxels of ``outer``."""
        return prod(b - a for a, b in self.outer)

    def read(self, array: np.ndarray) -> np.ndarray:
        """``array`` over ``outer``; beyond the volume its outermost voxels are continued."""
        inside = tuple(slice(max(a, 0), min(b, n)) for (a, b), n in zip(self.outer, array.shape, strict=True))
        beyond = [(max(-a, 0), max(b - n, 0)) for (a, b), n in zip(self.outer, array.shape, strict=True)]
        return np.pad(array[inside], beyond, mode="edge")


def blocks(shape, lattice_origin, *, stride: int, margin: tuple[int, int], voxels: int = VOXELS_AT_ONCE) -> Iterator[Block]:
    """Blocks that tile a volume of ``shape`` (k, j, i).

    Parameters
    ----------
    lattice_origin : (k, j, i)
        World lattice position of voxel (0, 0, 0): pooling cells begin at its multiples of ``stride``, so a crop sees the same ones.
    margin : (slices, pixels)
        Receptive field to either side.
    voxels : int
        Upper bound for a block with its margin, as far as the margin allows.
    """
    sides = [_spans(n, LARGEST_SIDE if n > LARGEST_SIDE + 2 * margin[1] else n) for n in shape[1:]]
    largest = [max(b - a for a, b in side) + (2 * margin[1] if len(side) > 1 else stride) for side in sides]
    depth = max(2 * margin[0], voxels // (largest[0] * largest[1]) - 2 * margin[0])
    for k in _spans(shape[0], depth):
        for j in sides[0]:
            for i in sides[1]:
                outer = [(max(k[0] - margin[0], 0), min(k[1] + margin[0], shape[0]))]
                for (a, b), n, origin in zip((j, i), shape[1:], lattice_origin[1:], strict=True):
                    begin, end = max(a - margin[1], 0) + origin, min(b + margin[1], n) + origin
                    outer.append((begin // stride * stride - origin, -(-end // stride) * stride - origin))
                yield Block((k, j, i), tuple(outer))


def _spans(n: int, at_most: int) -> list[tuple[int, int]]:
    """``n`` voxels in equal parts of at most ``at_most``."""
    parts = -(-n // at_most)
    edges = [n * p // parts for p in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))
