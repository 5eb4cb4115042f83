"""Boundary perturbation (paper 001, contribution 3): a new anatomy from an old one, by a smooth random displacement of its borders.

The displacement is bounded in mm and so smooth that it is invertible. On a grid that is not enough: a vessel one voxel thin breaks where a
warped copy of it falls between voxels. So the label map is moved in steps of less than a voxel, and in each step a voxel changes its label
only where that changes the topology of neither segment: where it is a *simple point* of both (Bertrand & Malandain 1994), 26-neighbours
being connected within a segment and 6-neighbours outside it. Each segment keeps its number of parts, tunnels and cavities exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import UnusableInput
from ..volume import Geometry, LabelMap

SMOOTHEST, STEEPEST = 12.0, 0.4  # mm: least standard deviation of the smoothing; largest change of the displacement, mm a mm
LARGEST = 30.0  # mm
STEP = 0.7  # of the smallest voxel side, that borders move at a time
ROUNDS = 3  # in each step, over the eight subgrids

_NEIGHBOURS = np.array([(k, j, i) for k in (-1, 0, 1) for j in (-1, 0, 1) for i in (-1, 0, 1) if (k, j, i) != (0, 0, 0)])
_REACHES_26 = np.abs(_NEIGHBOURS[:, None] - _NEIGHBOURS).max(-1) <= 1
_REACHES_6 = np.abs(_NEIGHBOURS[:, None] - _NEIGHBOURS).sum(-1) <= 1
_FACES = np.abs(_NEIGHBOURS).sum(-1) == 1
_NEAR = np.abs(_NEIGHBOURS).sum(-1) <= 2  # the 18-neighbours


def perturb(labelmap: LabelMap, by: float, *, seed: int = 0, between: Callable[[float], None] | None = None) -> LabelMap:
    """``labelmap`` with its borders displaced by at most ``by`` mm.

    Parameters
    ----------
    by : float
        Largest displacement in mm; it is reached somewhere in the volume, the root mean square is about a third of it.
    seed : int
        Chooses the displacement.
    between : callable, optional
        ``between(fraction)`` is called after each step and may raise to stop.

    Raises
    ------
    UnusableInput
        If ``by`` is negative or more than 30 mm, or the label map is empty.
    """
    if not 0 <= by <= LARGEST:
        raise UnusableInput(f"A displacement of {by:g} mm is outside the usable range; give a value from 0 to {LARGEST:g} mm.")
    if not labelmap.array.any():
        raise UnusableInput("The segmentation is empty: no voxel belongs to any segment, so there is no border to displace.")
    original, geometry = labelmap.array, labelmap.geometry
    result = original.copy()
    steps = int(np.ceil(by / (STEP * geometry.spacing.min())))
    field = Displacement(geometry, by, seed)
    for step in range(1, steps + 1):
        _move_towards(result, _warped(original, geometry, field, step / steps))
        if between:
            between(step / steps)
    return LabelMap(result, geometry, labelmap.segments, labelmap.metadata)


class Displacement:
    """A smooth random displacement in mm along the axes (i, j, k): ``field(first, last)`` gives it for those slices (3, D, H, W).

    White noise on a lattice, smoothed by a Gaussian of 12 mm or more: so smooth that it changes by at most 0.4 mm a mm.
    """

    def __init__(self, geometry: Geometry, by: float, seed: int = 0):
        spacing, shape = geometry.spacing, geometry.shape
        sigma, rng = max(SMOOTHEST, 4 * by), np.random.default_rng(seed)
        pitch = sigma / 2
        extent = [n * s for n, s in zip(shape, spacing[::-1], strict=True)]  # (k, j, i)
        nodes = [int(np.ceil(e / pitch)) + 2 for e in extent]
        taps = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
        lattice = rng.standard_normal((3, *(n + 12 for n in nodes)))
        for axis in (1, 2, 3):
            lattice = np.apply_along_axis(np.convolve, axis, lattice, taps / taps.sum(), mode="valid")
        steepest = max(np.abs(np.diff(lattice, axis=axis)).max() / pitch for axis in (1, 2, 3))
        scale = by / max(np.sqrt((lattice**2).sum(0)).max(), 1e-12)
        self._lattice = lattice * min(scale, STEEPEST / max(steepest, 1e-12))
        self._matrices = [_linear(n, s / pitch, m) for n, s, m in zip(shape, spacing[::-1], nodes, strict=True)]

    def __call__(self, first: int, last: int) -> np.ndarray:
        k, j, i = self._matrices
        coarse = np.einsum("ka,cabd->ckbd", k[first:last], self._lattice)
        return np.einsum("jb,id,ckbd->ckji", j, i, coarse, optimize=True).astype(np.float32)


def _linear(count: int, step: float, nodes: int) -> np.ndarray:
    """(count, nodes): linear interpolation at positions n · ``step`` between nodes."""
    at = np.arange(count) * step
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(nodes)))


def _warped(labels: np.ndarray, geometry: Geometry, field, part: float) -> np.ndarray:
    """Label of each voxel after ``part`` of the displacement, read at the nearest voxel; beyond the image its outermost voxels go on."""
    result = np.empty_like(labels)
    limits = np.array(labels.shape)[:, None, None] - 1
    rows, columns = np.meshgrid(*(np.arange(n) for n in labels.shape[1:]), indexing="ij")
    for k in range(len(labels)):
        u = field(k, k + 1)[:, 0] * part / geometry.spacing[:, None, None]
        at = np.rint(np.stack([k + u[2], rows + u[1], columns + u[0]])).astype(np.int32)
        at = np.clip(at, 0, limits)
        result[k] = labels[at[0], at[1], at[2]]
    return result


def _move_towards(labels: np.ndarray, target: np.ndarray) -> None:
    """Give voxels of ``labels`` their label in ``target``, in place, wherever that changes no segment's topology."""
    padded = np.pad(labels.astype(np.int32), 1, constant_values=-1)
    flat = padded.reshape(-1)
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    offsets = _NEIGHBOURS @ strides
    k, j, i = np.nonzero(labels != target)
    at = (np.stack([k, j, i], 1) + 1) @ strides
    wanted = target[k, j, i].astype(np.int32)
    subgrid = (k % 2) * 4 + (j % 2) * 2 + i % 2  # no two voxels of one subgrid are neighbours, so they may change together
    for _ in range(ROUNDS):
        changed = False
        for n in range(8):
            chosen = np.flatnonzero((subgrid == n) & (flat[at] != wanted))
            around = flat[at[chosen, None] + offsets]
            old, new = flat[at[chosen]], wanted[chosen]
            free = _simple(around == new[:, None])
            free[free] = _simple(around[free] == old[free, None])
            flat[at[chosen[free]]] = new[free]
            changed |= bool(free.any())
        if not changed:
            break
    labels[...] = padded[1:-1, 1:-1, 1:-1]


def _simple(inside: np.ndarray) -> np.ndarray:
    """Whether a voxel with these 26 neighbours ``inside`` (n, 26) is a simple point: it may join or leave the segment."""
    codes = inside @ (1 << np.arange(26, dtype=np.int64))
    patterns, back = np.unique(codes, return_inverse=True)
    bits = (patterns[:, None] >> np.arange(26)) & 1 > 0
    return (_one_component(bits, bits, _REACHES_26) & _one_component(~bits & _NEAR, ~bits & _FACES, _REACHES_6))[back]


def _one_component(members: np.ndarray, counted: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Whether the ``counted`` of ``members`` (n, 26), of which there must be one at least, hang together."""
    reached = np.zeros_like(members)
    some = counted.any(1)
    reached[some, counted[some].argmax(1)] = True
    steps = reaches.astype(np.uint8)
    while True:
        grown = ((reached.astype(np.uint8) @ steps) > 0) & members
        if (grown == reached).all():
            return some & ~(counted & ~reached).any(1)
        reached = grown
