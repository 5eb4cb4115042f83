"""What a method is told of a person, from careful contours down to nothing but the body's outline: each a LabelMap made of a Case."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from ..anatomy import Tissue, ancestors
from ..volume import LabelMap, Segment
from .cases import Case

BODY = Segment(1, "body", code=("SCT", "123037004", "Body structure"))
LUNGS = Segment(2, "lungs")
HEART = Segment(3, "heart")
FIRST_ORGAN = 20  # label values from it on are the case's own outlines


def contours(case: Case, seed: int = 0) -> LabelMap:
    """What people draw: the organs that this case comes with, the lungs with their vessels as one label, and the outline of the body."""
    array = np.where(case.body, np.uint16(BODY.value), np.uint16(0))
    segments = [BODY]
    if not any(u.structure.tissue is Tissue.LUNG for u in case.understood) and (lungs := _lungs(case)).any():
        array[lungs] = LUNGS.value
        segments.append(LUNGS)
    return _with_organs(case, array, segments)


def regions(case: Case, seed: int = 0) -> LabelMap:
    """The coarse region map of ``ctsynthesis segment``."""
    return LabelMap(case.regions.array.astype(np.uint16), case.ct.geometry, case.regions.segments)


def half(case: Case, seed: int = 0) -> LabelMap:
    """Regions and organs, of which a random half has been dropped; what they covered is unspecified body."""
    full = _with_organs(case, case.regions.array.astype(np.uint16), list(case.regions.segments))
    present = [s for s in full.segments if (full.array == s.value).any()]
    order = np.random.default_rng([seed, zlib.crc32(case.name.encode())]).permutation(len(present))
    kept = [present[n] for n in sorted(order[: len(present) // 2])]
    body = Segment(max(s.value for s in full.segments) + 1, BODY.name, code=BODY.code)
    array = np.where(np.isin(full.array, [s.value for s in kept]), full.array, np.where(case.body, np.uint16(body.value), np.uint16(0)))
    return LabelMap(array, case.ct.geometry, (*kept, body))


def lone(case: Case, seed: int = 0) -> LabelMap | None:
    """One structure and nothing around it, not even an outline: the heart, else the lungs, else the largest organ; None without any."""
    heart = [u.segment.value for u in case.understood if "heart" in (u.structure.name, *(a.name for a in ancestors(u.structure)))]
    if heart:
        return _alone(case, HEART, np.isin(case.organs.array, heart))
    if (lungs := _lungs(case)).any():
        return _alone(case, LUNGS, lungs)
    if case.organs is None:
        return None
    largest = max(case.organs.segments, key=lambda s: int((case.organs.array == s.value).sum()))
    return _alone(case, largest, case.organs.array == largest.value)


def body(case: Case, seed: int = 0) -> LabelMap:
    """The outline of the body, and nothing of what is in it."""
    return _alone(case, BODY, case.body)


CONDITIONS: dict[str, Callable[[Case, int], LabelMap | None]] = {f.__name__: f for f in (contours, regions, half, lone, body)}


def _lungs(case):
    lungs = case.region("lungs", "lung_vessels")
    return lungs if lungs.sum() * case.ct.geometry.voxel_ml >= 20 else np.zeros_like(lungs)


def _alone(case, segment, mask):
    return LabelMap(np.where(mask, np.uint16(segment.value), np.uint16(0)), case.ct.geometry, (segment,))


def _with_organs(case, array, segments):
    for n, organ in enumerate(case.organs.segments if case.organs else ()):
        value = FIRST_ORGAN + n
        array[case.organs.array == organ.value] = value
        segments.append(Segment(value, organ.name, code=organ.code, modifier=organ.modifier))
    return LabelMap(array, case.ct.geometry, tuple(segments))
