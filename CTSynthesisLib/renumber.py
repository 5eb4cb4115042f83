"""Label values of any size brought to small ones, once, where a label map comes in; the user's own values come back in what goes out.

A label value is an index into tables throughout the engine, and shares 16 bits with the values of what is filled in. Labellings in use stay
below ``LARGEST_LABEL`` and keep their values; identifiers of an ontology or of an instance do not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .errors import UnusableInput

LARGEST_LABEL = 4095


def renumbered(segments) -> tuple:
    """Segments with values up to ``LARGEST_LABEL``: the smallest free ones in place of larger ones, which are kept as ``own``.

    Raises
    ------
    UnusableInput
        If there are more segments than values.
    """
    taken = {segment.value for segment in segments}
    if len(taken) > LARGEST_LABEL:
        raise UnusableInput(f"There are {len(taken)} labels, but at most {LARGEST_LABEL} are possible; merge or remove some.")
    large = sorted(value for value in taken if value > LARGEST_LABEL)
    free = (value for value in range(1, LARGEST_LABEL + 1) if value not in taken)
    new = dict(zip(large, free, strict=False))
    return tuple(replace(s, value=new[s.value], own=s.label) if s.value in new else s for s in segments)


def replaced(array: np.ndarray, new: dict[int, int], dtype) -> np.ndarray:
    """Integers ``array`` with each value replaced by the one in ``new``, a slice at a time; what is not in it becomes 0."""
    result = np.empty(array.shape, dtype)
    if array.dtype in (np.uint8, np.uint16):
        table = np.zeros(np.iinfo(array.dtype).max + 1, dtype)
        known = [value for value in new if 0 <= value < len(table)]
        table[known] = [new[value] for value in known]
        for part, target in zip(array, result, strict=True):
            np.take(table, part, out=target)
        return result
    old = np.array(sorted({0, *new}))
    values = np.array([new.get(int(value), 0) for value in old], dtype)
    for part, target in zip(array, result, strict=True):
        place = np.searchsorted(old, part).clip(max=len(old) - 1)
        target[...] = np.where(old[place] == part, values[place], 0)
    return result
