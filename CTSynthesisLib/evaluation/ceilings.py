"""The ceilings: other real persons, measured like a method. No generator need be nearer to a person than another person is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..volume import AIR_HU, Geometry, LabelMap, Volume, resample
from .cases import Case

COARSE = 8.0  # mm, for finding the person who fits best
STEP = 16.0  # mm, by which the other person is moved along the body in the search


@dataclass(frozen=True, eq=False)
class Placed:
    """Another ``person`` moved onto a case's grid by ``shift`` (RAS mm); ``overlap``: the share of the case's body with the same region."""

    person: Case
    overlap: float
    shift: np.ndarray


def place(case: Case, other: Case) -> Placed:
    """The best of the places that ``other`` can take on ``case``'s grid: bodies centred in-plane, moved along the body in steps."""
    target = case.ct.geometry.with_spacing((COARSE,) * 3)
    source = other.ct.geometry.with_spacing((COARSE,) * 3)
    wanted = resample(case.regions.array, case.ct.geometry, target, labels=True)
    had = resample(other.regions.array, other.ct.geometry, source, labels=True)
    centre, middle = _centre(wanted, target), _centre(had, source)
    reach = (target.shape[0] + source.shape[0]) * COARSE / 2
    best = Placed(other, -1.0, np.zeros(3))
    for along in np.arange(-reach // STEP * STEP, reach + STEP, STEP):
        shift = centre - middle + np.array([0.0, 0.0, along])
        moved = resample(had, _moved(source, shift), target, labels=True)
        overlap = float(((moved == wanted) & (wanted > 0)).sum() / max((wanted > 0).sum(), 1))
        if overlap > best.overlap:
            best = Placed(other, overlap, shift)
    return best


def nearest(case: Case, others) -> Placed | None:
    """The person among ``others`` (an iterable of cases, one held at a time) who fits best; None without others."""
    best = None
    for other in others:
        placed = place(case, other)
        if best is None or placed.overlap > best.overlap:
            best = placed
    return best


def on_grid_of(case: Case, placed: Placed) -> Case:
    """The other person on ``case``'s grid; where that scan ends above or below, its last slice goes on."""
    person, target = placed.person, case.ct.geometry
    moved = _moved(person.ct.geometry, placed.shift)
    extra = int(np.ceil(2 * max(target.shape[0] * target.spacing[2], moved.shape[0] * moved.spacing[2]) / moved.spacing[2]))
    low, high = _beyond(target, moved, extra)
    grown = Geometry((moved.shape[0] + low + high, *moved.shape[1:]), moved.crop((-low, 0, 0), moved.shape).ijk_to_ras)
    pad = ((low, high), (0, 0), (0, 0))
    hu = resample(np.pad(person.ct.array, pad, mode="edge"), grown, target, outside=AIR_HU)
    regions = resample(np.pad(person.regions.array, pad, mode="edge"), grown, target, labels=True)
    return Case(person.name, Volume(hu, target), LabelMap(regions, target, person.regions.segments))


def _beyond(target, moved, at_most):
    """Slices that ``target`` reaches below and above ``moved``."""
    corners = np.array([[i, j, k, 1] for i in (0, target.shape[2]) for j in (0, target.shape[1]) for k in (-1, target.shape[0])], float)
    k = (np.linalg.inv(moved.ijk_to_ras) @ target.ijk_to_ras @ corners.T)[2]
    return tuple(int(np.clip(np.ceil(n), 0, at_most)) for n in (-k.min(), k.max() - moved.shape[0] + 1))


def _centre(labels, geometry):
    """RAS centre of the body's bounding box."""
    where = np.argwhere(labels > 0)
    k, j, i = (where.min(axis=0) + where.max(axis=0)) / 2 if len(where) else (np.array(labels.shape) - 1) / 2
    return (geometry.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3]


def _moved(geometry, shift):
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return geometry.transformed(matrix)
