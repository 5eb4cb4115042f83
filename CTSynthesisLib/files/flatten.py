"""Flattening segments that may overlap, a slice at a time: a hundred organs in a large series must not need a hundred masks."""

from __future__ import annotations

import numpy as np

from ..renumber import renumbered, replaced
from ..volume import Geometry, LabelMap, Segment


class Flattening:
    """One label per voxel out of segments that are painted in any order.

    Where they overlap, the segment with the higher ``rank`` wins, and among equals the later one in ``segments``: the rule of
    :meth:`LabelMap.from_masks`, without the masks.
    """

    def __init__(self, geometry: Geometry, segments: list[Segment], rank=None):
        order = sorted(range(len(segments)), key=lambda n: rank(segments[n]) if rank else 0)
        self._geometry, self._segments = geometry, segments
        self._height = {number: height for height, number in enumerate(order, start=1)}  # who lies on top of whom
        self._top = np.zeros(geometry.shape, dtype=np.uint16)
        self._painted: set[int] = set()

    def paint(self, number: int, mask: np.ndarray, k: int):
        """Paint the segment ``segments[number]`` where ``mask`` (j, i) is true in slice ``k``."""
        if mask.any():
            self._painted.add(number)
            top, height = self._top[k], self._height[number]
            top[mask & (top < height)] = height

    def paint_layer(self, numbers: dict[int, int], labels: np.ndarray, start=(0, 0, 0)) -> int:
        """Paint a whole layer: ``numbers`` says which segment a label stands for, ``start`` (k, j, i) where ``labels`` begin.

        Returns the number of labelled voxels that are no segment's.
        """
        labelled = np.count_nonzero(labels)
        labels = labels.view(np.uint8) if labels.dtype == bool else labels
        if labels.max(initial=0) > np.iinfo(np.uint16).max:  # too large to count on
            places = {label: place for place, label in enumerate(sorted(numbers), start=1)}
            numbers, labels = {places[label]: number for label, number in numbers.items()}, replaced(labels, places, np.int32)
        height = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.uint16)
        for label, number in numbers.items():
            if 0 < label < len(height):
                height[label] = self._height[number]
        (k, j, i), (_, rows, columns) = start, labels.shape
        count = np.zeros(len(height), dtype=np.int64)
        for n, part in enumerate(labels):
            count += np.bincount(part.ravel(), minlength=len(height))
            top = self._top[k + n, j : j + rows, i : i + columns]
            np.maximum(top, height[part], out=top)
        painted = {label: number for label, number in numbers.items() if 0 < label < len(count) and count[label]}
        self._painted.update(painted.values())
        return labelled - sum(int(count[label]) for label in painted)

    def result(self, metadata=None) -> tuple[LabelMap, tuple[str, ...]]:
        """The label map of the segments that have voxels, and a note on those that have none."""
        painted = sorted(self._painted)
        segments = renumbered([self._segments[number] for number in painted])
        values = np.zeros(len(self._segments) + 1, dtype=np.uint16)
        for number, segment in zip(painted, segments, strict=True):
            values[self._height[number]] = segment.value
        for part in self._top:
            part[...] = values[part]
        empty = [segment.name for number, segment in enumerate(self._segments) if number not in self._painted]
        notes = (f"Left out because no voxel belongs to them: {', '.join(empty)}.",) if empty else ()
        return LabelMap(self._top, self._geometry, segments, metadata or {}), notes
