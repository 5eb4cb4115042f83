"""What is drawn in every second, third, ... slice only: outlines are filled in between, painted segments are told."""

from __future__ import annotations

import numpy as np

from ..volume import distance_mm

ALIKE = 1.1  # gaps that differ by less than this factor are one


def usual_gap(gaps) -> float:
    """The gap that most of ``gaps`` share (the smaller of two that are equally common); 0 if no two are alike: nothing is regular then."""
    gaps = np.sort(np.asarray(gaps, dtype=float))
    alike = np.searchsorted(gaps, gaps * ALIKE, "right") - np.searchsorted(gaps, gaps / ALIKE, "left")
    return float(gaps[np.argmax(alike)]) if alike.max(initial=0) > 1 else 0.0


def sparse_segments(labelmap) -> tuple[str, ...]:
    """A sentence on the segments of a LabelMap that are painted in every n-th slice only, along any of its axes; none if there are none."""
    found = {}
    most = max((segment.value for segment in labelmap.segments), default=0) + 1
    for axis in range(3):
        slices = np.moveaxis(labelmap.array, axis, 0)
        painted = np.array([np.bincount(one.ravel(), minlength=most)[:most] > 0 for one in slices])
        for segment in labelmap.segments:
            gaps = np.diff(np.flatnonzero(painted[:, segment.value]))
            if gaps.size and gaps.min() > 1 and (usual := usual_gap(gaps)):
                found.setdefault(segment.name, usual)
    if not found:
        return ()
    names = ", ".join(f"'{name}' (1 slice in {gap:.0f})" for name, gap in list(found.items())[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (f"Painted in single slices with empty ones between them, and drawn as such stripes: {names}{more}; fill what lies between, as "
            "the Segment Editor's \"Fill between slices\" does.",)  # fmt: skip


def masks_between(low: int, below: np.ndarray, high: int, above: np.ndarray, spacing):
    """Yield ``(k, mask)`` for the slices between ``low`` and ``high``, whose masks (j, i) are ``below`` and ``above``.

    The signed distances from both borders are interpolated linearly, and what lies within zero of it belongs to the mask (Raya and Udupa,
    Shape-based interpolation, 1990). ``spacing`` is that of (i, j) in mm.
    """
    rows, columns = (np.flatnonzero((below | above).any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    one, two = (_signed_distance(np.pad(mask[window], 1), spacing)[1:-1, 1:-1] for mask in (below, above))
    for k in range(low + 1, high):
        mask = np.zeros_like(below)
        mask[window] = (high - k) * one + (k - low) * two <= 1e-3  # mm: where both are as far, it belongs
        yield k, mask


def _signed_distance(mask, spacing):
    """Distance from the border of ``mask`` in mm, negative within: the border runs halfway between a pixel in it and one outside."""
    distance = distance_mm(mask, spacing) - distance_mm(~mask, spacing)
    return distance - 0.5 * np.sign(distance) * spacing.min()
