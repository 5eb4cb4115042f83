"""Pulmonary vessels for lungs that were painted as one label: a seeded tree that branches and goes on from slice to slice.

Every lung gets arteries and veins. Their trunks enter at a hilum; from there a branch grows to each node of four jittered lattices of
falling cell size, from wherever on the coarser vessels it leaves with the least length, bend and way back (a local form of
space colonisation). Nodes are hashed from seed and lattice position in RAS mm, and parents are found among neighbours, so the tree
belongs to the world and not to the array: a crop keeps it, and an edit of the mask changes it near the edit. Only the hilum is
estimated from the whole lung, to the nearest 16 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..volume import Geometry, reorder, restore

SMALLEST = 20.0  # ml: less than this is no lung
SLAB = 20.0  # mm: thinner stacks are judged as if they were this thick
BEYOND = 70.0  # mm: lungs that the grid's border cuts are taken to go on this far, so that vessels cross the border
HILUM_STEP = 16.0  # mm: the hilum's place is rounded to this
FINEST = 1.5  # mm: thicker slices are drawn in layers no thicker than this and keep what fills half of them
BEND, BACK, CALIBRE = 0.9, 0.6, 1.5  # weights of a branch's bend, of its root's way from the hilum, and of leaving a thick vessel


@dataclass(frozen=True)
class Level:
    """One generation of branches: lattice ``cell``, radius at its root and tip, least distance of its tips from the pleura; all in mm."""

    cell: float
    root: float
    tip: float
    depth: float


LEVELS = (Level(60, 3.6, 1.7, 18), Level(35, 2.0, 1.0, 12), Level(21.5, 1.25, 0.85, 7), Level(14, 0.92, 0.7, 3.5))
# trunks, as (place of the root, then of the nodes) in mm lateral, to the front and to the head of the hilum; radius at the root
ARTERY = (((-8, 2, 6), (16, 0, 2), (27, -10, -30), (36, -20, -68)), ((4, 2, 6), (16, 4, 30), (24, -2, 58)))
VEIN = (((-8, 14, 0), (14, 20, 6), (28, 26, 32)), ((-8, -4, -20), (18, -12, -26), (38, -26, -44)))
TRUNK_RADIUS = 6.5
DEEP, SPARED = 20.0, 0.6  # share of the finest branches left out where the pleura is further away than this many mm
_PROBES = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if x or y or z], float)
_PROBES /= np.linalg.norm(_PROBES, axis=1, keepdims=True)
_ALONG = np.linspace(0, 1, 13)  # where on an edge it is tested against the mask and may branch


@dataclass
class Edges:
    """Branches as quadratic Bezier curves ``points`` (n, 3, 3) in RAS mm with ``radii`` (n, 2) at both ends.

    They are drawn up to the parameter ``end`` (n,); ``path`` (n,) is the way along the tree from the hilum to their roots in mm.
    """

    points: np.ndarray
    radii: np.ndarray
    end: np.ndarray
    path: np.ndarray

    def lengths(self):
        return np.linalg.norm(np.diff(self.points, axis=1), axis=2).sum(1)

    def at(self, t):
        """Positions (n, t, 3) at the parameters ``t``, (t,) or (n, t)."""
        t = np.asarray(t)[..., None]
        p, c, q = self.points[:, None].transpose(2, 0, 1, 3)
        return (1 - t) ** 2 * p + 2 * t * (1 - t) * c + t**2 * q


def grow_vessels(lungs: np.ndarray, geometry: Geometry, seed: int) -> np.ndarray:
    """Vessels (k, j, i) inside the mask ``lungs`` (k, j, i) of an axial stack on ``geometry``.

    Lungs of less than 20 ml get none.
    """
    axes, flips = geometry.anatomical_axes  # whatever way the axes run, the same voxels give the same tree
    geometry, lungs = geometry.reordered(axes, flips), np.ascontiguousarray(reorder(lungs, axes, flips))
    world = _World(lungs, geometry)
    trees = [_grow(world, lung, trunks, seed, tree) for lung in _split(world) for tree, trunks in enumerate((ARTERY, VEIN))]
    vessels = _drawn(_joined(trees), geometry) & lungs if trees else np.zeros(lungs.shape, bool)
    return np.ascontiguousarray(restore(vessels, axes, flips))


class _World:
    """The lungs as a function of RAS position, going on beyond the grid's border for ``BEYOND`` mm."""

    def __init__(self, lungs, geometry):
        self.lungs, self.geometry = lungs, geometry
        self.ras_to_ijk = np.linalg.inv(geometry.ijk_to_ras)
        self.last = np.array(geometry.shape[::-1]) - 1
        self.margin = BEYOND / geometry.spacing

    def inside(self, points):
        ijk = points @ self.ras_to_ijk[:3, :3].T + self.ras_to_ijk[:3, 3]
        near = ((ijk >= -0.5 - self.margin) & (ijk <= self.last + 0.5 + self.margin)).all(-1)
        i, j, k = np.moveaxis(np.clip(np.rint(ijk), 0, self.last).astype(np.intp), -1, 0)
        return self.lungs[k, j, i] & near

    def sample(self):
        """RAS positions (n, 3) of about every third millimetre of lung, and how many ml each stands for (slabs count as ``SLAB`` thick)."""
        steps = [max(1, round(3 / s)) for s in self.geometry.spacing[::-1]]
        start = [-o % s if -o % s < n else 0 for o, s, n in zip(self.geometry.lattice_origin(), steps, self.lungs.shape, strict=True)]
        kji = np.argwhere(self.lungs[tuple(slice(b, None, s) for b, s in zip(start, steps, strict=True))]) * steps + start
        thickness = self.geometry.shape[0] * self.geometry.spacing[2]
        ml = self.geometry.voxel_ml * np.prod(steps) * max(1.0, SLAB / thickness)
        return kji[:, ::-1] @ self.geometry.ijk_to_ras[:3, :3].T + self.geometry.ijk_to_ras[:3, 3], ml


@dataclass(frozen=True)
class _Lung:
    hilum: np.ndarray  # RAS mm
    lateral: float  # the sign of RAS x away from the mediastinum
    midline: float  # RAS x beyond which the other lung begins
    box: np.ndarray  # (2, 3) RAS mm

    def holds(self, points):
        return (points[..., 0] - self.midline) * self.lateral > 0


def _split(world) -> list[_Lung]:
    """One or two lungs: two where the mask's extent along RAS x has a valley between two hills."""
    points, ml = world.sample()
    if len(points) * ml < SMALLEST:
        return []
    x = points[:, 0]
    bins = np.floor(x / 8).astype(int)
    profile = np.bincount(bins - bins.min()).astype(float)
    cut = np.searchsorted(np.cumsum(profile), len(x) * np.array((0.2, 0.8)))
    valley = cut[0] + int(np.argmin(profile[cut[0] : cut[1] + 1]))
    hills = min(profile[: valley + 1].max(), profile[valley:].max())
    midline = (valley + bins.min() + 0.5) * 8.0
    if profile[valley] < 0.5 * hills:
        parts = [(points[x < midline], -1.0, midline), (points[x > midline], 1.0, midline)]
    else:  # a lone lung lies to one side of the patient's middle: RAS 0 or, failing that, the grid's
        grid = (world.geometry.ijk_to_ras @ np.append(world.last / 2, 1))[0]
        lateral = 1.0 if (x.mean() if abs(x.mean()) > 20 else x.mean() - grid) > 0 else -1.0
        parts = [(points, lateral, -1e6 * lateral)]
    return [_lung(world, *part) for part in parts if len(part[0]) * ml >= SMALLEST]


def _lung(world, points, lateral, midline) -> _Lung:
    _, y, z = points.mean(0) + (0, -4, 6)
    y, z = (np.floor(v / HILUM_STEP) * HILUM_STEP + HILUM_STEP / 2 for v in (y, z))
    off = np.hypot(points[:, 1] - y, points[:, 2] - z)
    level = points[off < max(24.0, np.partition(off, len(off) // 50)[len(off) // 50])]
    x = np.quantile(level[:, 0] * lateral, 0.04) * lateral
    reach = np.array([points.min(0), points.max(0)])
    border = (world.geometry.ijk_to_ras @ np.array([[-0.5, -0.5, -0.5, 1], [*(world.last + 0.5), 1]]).T)[:3].T
    low, high = border.min(0), border.max(0)
    reach[0] -= np.where(reach[0] < low + 6, BEYOND, 6)
    reach[1] += np.where(reach[1] > high - 6, BEYOND, 6)
    return _Lung(np.array([np.rint(x / 8) * 8, y, z]), lateral, midline, reach)


def _grow(world, lung, trunks, seed, tree) -> Edges:
    edges = _trunks(lung, trunks, seed, tree)
    for number, level in enumerate(LEVELS):
        nodes, cells = _nodes(world, lung, level, seed, 8 * tree + number)
        if number == 0:  # the largest branches may carry each other, from the hilum outwards
            order = np.argsort(np.linalg.norm(nodes - lung.hilum, axis=1), kind="stable")
            groups = [order[n : n + 1] for n in range(len(order))]
        else:
            groups = [np.arange(len(nodes))]
        for group in groups:
            new = _branch(world, lung, edges, nodes[group], level, _uniform(cells[group], seed, 8 * tree + number + 100, 5))
            edges = _joined([edges, new])
    return edges


def _joined(parts) -> Edges:
    return Edges(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))


def _trunks(lung, trunks, seed, tree) -> Edges:
    points, radii, way = [], [], []
    cell = np.rint(lung.hilum / 8).astype(np.int64)[None]
    for number, trunk in enumerate(trunks):
        path = np.array(trunk, float)
        shake = _uniform(cell, seed, 50 + 8 * tree + number, 3 * len(path)).reshape(-1, 3) - 0.5
        path = (path + shake * np.minimum(14, 4 + 4 * np.arange(len(path)))[:, None]) * (lung.lateral, 1, 1) + lung.hilum
        tangent = path[1] - path[0]
        taper = TRUNK_RADIUS * (1 - 0.06 * tree) * 0.83 ** np.arange(len(path)) * (0.8 if trunk[0][0] > 0 else 1)
        for p, q, r, s in zip(path[:-1], path[1:], taper[:-1], taper[1:], strict=True):
            control = p + 0.5 * np.linalg.norm(q - p) * tangent / np.linalg.norm(tangent)
            points.append((p, control, q))
            radii.append((r, s))
            way.append(np.linalg.norm(p - lung.hilum))  # nearly straight so far
            tangent = q - control
    return Edges(np.array(points), np.array(radii), np.ones(len(points)), np.array(way))


def _nodes(world, lung, level, seed, stream):
    """The level's lattice nodes (n, 3) inside the lung and away from its pleura, and their cells."""
    low, high = np.floor(lung.box / level.cell).astype(int)
    cells = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1).reshape(-1, 3)
    nodes = (cells + 0.04 + 0.92 * _uniform(cells, seed, stream, 3)) * level.cell
    kept = world.inside(nodes) & lung.holds(nodes)
    nodes, cells = nodes[kept], cells[kept]
    kept = world.inside(nodes[:, None] + level.depth * _PROBES).all(1)
    nodes, cells = nodes[kept], cells[kept]
    if level is LEVELS[-1]:
        kept = _uniform(cells, seed, stream, 4)[:, 3] > SPARED
        kept[~kept] = ~world.inside(nodes[~kept, None] + DEEP * _PROBES).all(1)
        nodes, cells = nodes[kept], cells[kept]
    return nodes, cells


def _branch(world, lung, edges, nodes, level, chance) -> Edges:
    """One branch to each node from its best place on ``edges``; none where it would be a stub, a detour or leave the lung early."""
    at = edges.at(_ALONG)
    p, c, q = edges.points.transpose(1, 0, 2)
    tangent = (1 - _ALONG)[:, None] * (c - p)[:, None] + _ALONG[:, None] * (q - c)[:, None]
    radius = edges.radii[:, :1] + (edges.radii[:, 1:] - edges.radii[:, :1]) * _ALONG
    usable = (_ALONG >= 0.2) & (edges.end[:, None] >= _ALONG)
    usable &= world.inside(at) & lung.holds(at)
    if not usable.any() or not len(nodes):
        return Edges(np.empty((0, 3, 3)), np.empty((0, 2)), np.empty(0), np.empty(0))
    path = edges.path[:, None] + _ALONG * edges.lengths()[:, None]
    at, tangent, radius, path = at[usable] - lung.hilum, tangent[usable], radius[usable], path[usable]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    nodes = nodes - lung.hilum

    distance = np.sqrt(np.maximum((nodes**2).sum(1)[:, None] + (at**2).sum(1) - 2 * nodes @ at.T, 0))
    onwards = nodes @ tangent.T - (tangent * at).sum(1)  # distance times the cosine of the branching angle
    cost = distance + BEND * (distance - onwards) + BEND * np.maximum(0.5 * distance - onwards, 0)  # dearer beyond 60 degrees
    best = np.argmin(cost + BACK * path + CALIBRE * np.maximum(radius - 2 * level.root, 0), axis=1)
    length = distance[np.arange(len(nodes)), best]
    kept = (length > np.maximum(0.3 * level.cell, 1.5 * radius[best])) & (length < 3.0 * level.cell)
    best, length, nodes, chance = best[kept], length[kept, None], nodes[kept], chance[kept]

    start, along, wide = at[best], tangent[best], radius[best]
    ahead = 0.7 * along + (nodes - start) / length
    side = (chance[:, :3] - 0.5) * 0.3 * length
    control = start + 0.5 * length * ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 0.2) + side
    root = np.minimum(level.root * (0.8 + 0.4 * chance[:, 3]), 0.85 * wide)
    tip = np.minimum(level.tip * (0.85 + 0.3 * chance[:, 4]), 0.9 * root)
    new = Edges(np.stack([start, control, nodes], 1) + lung.hilum, np.stack([root, tip], 1), np.ones(len(nodes)), path[best])
    places = new.at(_ALONG)
    fine = np.logical_and.accumulate(world.inside(places) & lung.holds(places), axis=1)
    new.end = _ALONG[np.maximum(fine.sum(1) - 1, 0)]
    kept = new.end >= 0.5
    return Edges(new.points[kept], new.radii[kept], new.end[kept], new.path[kept])


def _drawn(edges, geometry) -> np.ndarray:
    """The voxels whose larger part lies in a tube; thin tubes stay connected if they fill 0.8 of a voxel's width."""
    layers = max(1, int(np.ceil(geometry.spacing[2] / FINEST - 1e-6)))
    step = geometry.spacing / (1, 1, layers)
    shape = (geometry.shape[0] * layers, *geometry.shape[1:])
    at, radius = _beads(edges, step)
    to_ijk = np.linalg.inv(geometry.ijk_to_ras)
    at = (at @ to_ijk[:3, :3].T + to_ijk[:3, 3]) * (1, 1, layers) + (0, 0, (layers - 1) / 2)
    reach = radius.max(initial=0) / step + 1
    visible = (2 * radius >= 0.8 * step[:2].max()) & (at > -reach).all(1) & (at < shape[::-1] + reach).all(1)
    at, radius = at[visible], radius[visible]

    fine = np.zeros(shape, np.uint8)
    classes = np.ceil(radius / 0.5).astype(int)
    for value in np.unique(classes):
        here = classes == value
        centre = np.rint(at[here]).astype(np.int64)
        size = np.floor(0.5 * value / step + 0.5).astype(int)
        square, places = 0.0, 0
        for axis, stride in enumerate((1, shape[2], shape[2] * shape[1])):  # (beads, k, j, i) from one axis at a time
            index = centre[:, axis, None] + np.arange(-size[axis], size[axis] + 1)
            apart = ((index - at[here, axis, None]) * step[axis]) ** 2
            apart[(index < 0) | (index >= shape[2 - axis])] = np.inf
            new = tuple(slice(None) if n in (0, 3 - axis) else None for n in range(4))
            square, places = square + apart.astype(np.float32)[new], places + (index * stride)[new]
        hit = square <= (radius[here, None, None, None] ** 2).astype(np.float32)
        fine.reshape(-1)[places[hit]] = 1
        centre = centre[((centre >= 0) & (centre < shape[::-1])).all(1)]
        fine[tuple(centre[:, ::-1].T)] = 1
    return 2 * sum(fine[n::layers] for n in range(layers)) >= layers


def _beads(edges, step):
    """Points (n, 3) in RAS mm along the edges, no further apart than half a voxel or a third of the radius there, and the radii."""
    count = np.ceil(edges.lengths() * edges.end / np.maximum(0.5 * step.min(), 0.3 * edges.radii[:, 1])).astype(int) + 1
    edge = np.repeat(np.arange(len(count)), count)
    t = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)) / np.maximum(count - 1, 1)[edge] * edges.end[edge]
    p, c, q = edges.points.transpose(1, 2, 0)[:, :, edge]
    return ((1 - t) ** 2 * p + 2 * t * (1 - t) * c + t**2 * q).T, edges.radii[edge, 0] + (edges.radii[edge, 1] - edges.radii[edge, 0]) * t


def _uniform(cells, seed, stream, count):
    """Uniform numbers (n, count) in [0, 1), a hash (splitmix64) of the integer ``cells`` (n, 3), ``seed`` and ``stream``."""
    with np.errstate(over="ignore"):
        h = _mixed(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream))
        for axis in range(3):
            h = _mixed(h ^ cells[:, axis].astype(np.int64).view(np.uint64))
        h = _mixed(h[:, None] + np.arange(1, count + 1, dtype=np.uint64))
    return (h >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x):
    x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
