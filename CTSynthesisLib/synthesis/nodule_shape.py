"""The parametric lung nodule: how large, of which kind and edge; and how it lies on a grid of voxels.

Few outlined nodules may train weights that ship, so shape and type of an injected nodule come from here, not from a network; the network
renders it into its surroundings (``nodules``). Kinds and edges are those of the Fleischner Society's glossary (Hansell et al., Radiology
2008;246:697) and of LIDC's ratings of margin, lobulation, spiculation and texture (Armato et al., Med Phys 2011;38:915).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UnusableInput

KINDS = ("solid", "part-solid", "ground-glass")
EDGES = ("smooth", "lobulated", "spiculated")
SMALLEST_MM, LARGEST_MM = 3.0, 30.0  # LIDC outlines nodules from 3 mm on; beyond 30 mm the glossary calls it a mass

# HU of the solid part, and of what has ground-glass attenuation. Solid and ground-glass: medians of the two nodules in the project's data
# that at least two LIDC readers outlined (15 and -683 HU; Resources/Anatomy/hounsfield.csv). The literature agrees: a solid nodule has soft
# tissue's attenuation (glossary), and what is brighter than -400 or -160 HU counts as the solid part of a ground-glass nodule (Lee et al.,
# PLoS One 2018;13:e0205490). The halo of a part-solid one is chosen so that with CORE_SHARE the whole has the table's mean of -350 HU.
SOLID_HU, GLASS_HU, HALO_HU = 15.0, -680.0, -560.0
CORE_SHARE = 0.7  # diameter of a part-solid nodule's solid part, of the whole; about a third of the volume
SPICULE_MM = 1.15  # radius of a spicule where it leaves the nodule
LOBES_APART = 0.45  # of the radius
AT_ONCE = 50_000  # points
FINEST_MM = 0.6  # a voxel is sampled at points no farther apart

# Diameters and numbers for random placement. The paper draws both from LIDC (section 3.1, figure B.3, which gives no numbers). Its nodules
# that at least three of four readers accepted are LUNA16's reference standard: 888 scans (luna16.grand-challenge.org/Data), 1186 rows of
# annotations.csv. In a public copy of that table, 1117 of the rows, there are 1.97 nodules a scan that has any (52, 27, 10 and 11 % of the
# scans have 1, 2, 3 and more), and diameters from 3.25 to 32.3 mm: median 6.44, mean 8.31, and 4.1, 5.1, 9.7 and 19.0 mm at 5, 25, 75 and
# 95 %. A log-normal beyond 3 mm with that median and mean has 3.7, 4.8, 9.4 and 19.0. That 601 scans have any is quoted from memory.
MEDIAN_MM, MEAN_MM = 6.4, 8.3
NODULES, SCANS_WITH, SCANS = 1186, 601, 888


@dataclass(frozen=True)
class Nodule:
    """One nodule. ``diameter_mm`` is that of the sphere of the same volume; ``seed`` chooses among shapes.

    Raises
    ------
    UnusableInput
        If the diameter lies outside 3 to 30 mm, or kind or edge is not known.
    """

    diameter_mm: float = 8.0
    kind: str = "solid"
    edge: str = "smooth"
    seed: int = 0

    def __post_init__(self):
        if not SMALLEST_MM <= self.diameter_mm <= LARGEST_MM:
            raise UnusableInput(
                f"A nodule of {self.diameter_mm:g} mm cannot be made; give a diameter from {SMALLEST_MM:g} to {LARGEST_MM:g} mm."
            )
        for what, value, known in (("kind", self.kind, KINDS), ("edge", self.edge, EDGES)):
            if value not in known:
                raise UnusableInput(f"'{value}' is no {what} of nodule; choose one of {', '.join(known)}.")

    @property
    def mean_hu(self) -> float:
        """Mean HU over the whole nodule."""
        if self.kind == "part-solid":
            return HALO_HU + CORE_SHARE**3 * (SOLID_HU - HALO_HU)
        return SOLID_HU if self.kind == "solid" else GLASS_HU

    @property
    def reach_mm(self) -> float:
        """No part of it lies farther from its centre."""
        return 1.05 * self.diameter_mm if self.edge == "spiculated" else 0.8 * self.diameter_mm


@dataclass(frozen=True, eq=False)
class Rendered:
    """A nodule on a grid (k, j, i).

    ``occupancy`` is the share of each voxel that it fills (float32, 0 to 1), ``mask`` where that is a half or more, ``hu`` the HU of that
    which fills it (float32; without texture, and meaningful where there is any).
    """

    occupancy: np.ndarray
    mask: np.ndarray
    hu: np.ndarray


def render(nodule: Nodule, shape, spacing, centre) -> Rendered:
    """``nodule`` on the grid of ``shape`` (k, j, i) and ``spacing`` (i, j, k) in mm, centred at voxel ``centre`` (k, j, i; fractions too).

    A pure function: the same arguments, the same nodule. Its shape is fixed in millimetres, so another spacing shows the same one.
    """
    steps, centre = np.asarray(spacing, float)[::-1], np.asarray(centre, float)
    occupancy, solid = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    low = np.clip(np.floor(centre - nodule.reach_mm / steps), 0, shape).astype(int)
    high = np.clip(np.ceil(centre + nodule.reach_mm / steps) + 1, low, shape).astype(int)
    box = tuple(map(slice, low, high))
    form = _form(nodule)
    finer = np.maximum(np.ceil(steps / FINEST_MM), 1).astype(int)
    total, hard = 0.0, 0.0
    for offset in np.ndindex(*finer):  # each voxel at several points, so that borders are partial volumes
        at = (np.arange(a, b) + (o + 0.5) / n - 0.5 - c for a, b, o, n, c in zip(low, high, offset, finer, centre, strict=True))
        z, y, x = np.meshgrid(*(p * s for p, s in zip(at, steps, strict=True)), indexing="ij")
        inside, core = form.occupied(np.stack([x, y, z], axis=-1).astype(np.float32), FINEST_MM)
        total, hard = total + inside, hard + core
    occupancy[box], solid[box] = total / finer.prod(), hard / finer.prod()
    share = solid / np.maximum(occupancy, 1e-6)
    soft = GLASS_HU if nodule.kind == "ground-glass" else HALO_HU
    return Rendered(occupancy, occupancy >= 0.5, (soft + np.clip(share, 0, 1) * (SOLID_HU - soft)).astype(np.float32))


def random_diameters(count: int, seed: int) -> np.ndarray:
    """Diameters (count,) in mm as LIDC's nodules have them; see above for the numbers."""
    median, mean = MEDIAN_MM - SMALLEST_MM, MEAN_MM - SMALLEST_MM
    spread = np.sqrt(2 * np.log(mean / median))
    rng = np.random.default_rng((seed, 1))
    return np.clip(SMALLEST_MM + median * np.exp(spread * rng.standard_normal(count)), SMALLEST_MM, LARGEST_MM).round(1)


def random_count(seed: int, *, at_least: int = 1) -> int:
    """How many nodules a scan has, as in LIDC: geometric, with the mean of the scans that have any; 0 only with ``at_least=0``."""
    rng = np.random.default_rng((seed, 2))
    if at_least == 0 and rng.random() > SCANS_WITH / SCANS:
        return 0
    return int(rng.geometric(SCANS_WITH / NODULES))


@lru_cache(maxsize=32)
def _form(nodule: Nodule) -> _Form:
    return _Form(nodule)


class _Form:
    """The surface: a distance from the centre for each direction, and spicules that leave it."""

    def __init__(self, nodule: Nodule):
        rng = np.random.default_rng((nodule.seed, KINDS.index(nodule.kind), EDGES.index(nodule.edge)))
        self.kind, self.whole = nodule.kind, nodule.diameter_mm / 2
        self.radius, self.core_share = self.whole, CORE_SHARE  # of the body; spicules have a part of the volume
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        self.stretch = turn * rng.uniform(0.88, 1.14, 3)  # an ellipsoid, axes within about a quarter of one another
        smooth = {"smooth": (5, 0.06), "lobulated": (5, 0.06), "spiculated": (14, 0.2)}[nodule.edge]
        self.bumps = _spread_out(smooth[0], rng), smooth[1] * rng.uniform(0.6, 1.0, smooth[0])
        self.sharpness = 11.0 if nodule.edge == "spiculated" else 3.0
        self.lobes = _spread_out(7, rng), rng.uniform(0.6, 0.78, 7)
        self.lobulated = nodule.edge == "lobulated"
        self.spicules = np.zeros((0, 3)), np.zeros(0)
        if nodule.edge == "spiculated":
            count = int(np.clip(14 + 2 * nodule.diameter_mm, 20, 60))
            self.spicules = _spread_out(count, rng), np.clip(self.radius * rng.uniform(0.35, 1.0, count), 1.5, 8.0)
        self.core_at = rng.normal(0, 0.05, 3) * nodule.diameter_mm
        self._fit()

    def _fit(self):
        """Scale it to the volume of its diameter's sphere."""
        wanted = 4 / 3 * np.pi * self.whole**3
        for _ in range(3):
            reach = 1.6 * self.radius + (self.spicules[1].max() if len(self.spicules[1]) else 0)
            line = (np.arange(48) + 0.5) / 48 * 2 * reach - reach
            points = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).astype(np.float32)
            volume, core = (part.sum() * (2 * reach / 48) ** 3 for part in self.occupied(points, 2 * reach / 48))
            self.radius *= (wanted / volume) ** (1 / 3)
            if self.kind == "part-solid":
                self.core_share = min(self.core_share * (CORE_SHARE**3 * volume / core) ** (1 / 3), 0.92)

    def occupied(self, points: np.ndarray, width: float):
        """How full ``points`` (..., 3) in mm are, all of it and its solid part, with borders ``width`` mm wide."""
        distance = np.linalg.norm(points, axis=-1)
        to = points / np.maximum(distance, 1e-6)[..., None]
        surface = self.radius / np.maximum(np.linalg.norm(to @ self.stretch, axis=-1), 1e-3)
        grown = 1 - self.bumps[1].mean() * 0.5
        for direction, height in zip(*self.bumps, strict=True):
            grown = grown + height * np.exp(self.sharpness * (to @ direction - 1))
        if self.lobulated:
            grown = grown * self._lobes(to)
        surface = surface * grown
        depth = surface - distance
        if len(self.spicules[1]):
            near = (depth < width / 2) & (distance < self.radius + self.spicules[1].max())
            depth[near] = np.maximum(depth[near], self._spicules(points[near], distance[near]))
        inside = np.clip(depth / width + 0.5, 0, 1)
        if self.kind == "solid":
            return inside, inside
        if self.kind == "ground-glass":
            return inside, np.zeros_like(inside)
        from_core = np.linalg.norm(points - self.core_at, axis=-1)
        core = np.clip((self.core_share * surface - from_core) / width + 0.5, 0, 1)
        return inside, np.minimum(core, inside)


    def _lobes(self, to):
        """How far a ball of seven overlapping ones, ``LOBES_APART`` from the centre, reaches in the directions ``to`` (..., 3)."""
        reach = np.zeros(to.shape[:-1], np.float32)
        for direction, radius in zip(*self.lobes, strict=True):
            cosine = to @ direction
            reach = np.maximum(reach, LOBES_APART * cosine + np.sqrt(np.maximum(radius**2 - LOBES_APART**2 * (1 - cosine**2), 0)))
        return reach

    def _spicules(self, points, distance):
        """How deep ``points`` (n, 3) lie in the spicule nearest by its angle, in mm: a cone from the nodule outwards."""
        directions, lengths = self.spicules
        cosine, length = np.empty(len(points), np.float32), np.empty(len(points), np.float32)
        for begin in range(0, len(points), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            along = points[part] @ directions.T.astype(np.float32)
            nearest = along.argmax(1)
            cosine[part], length[part] = along[np.arange(len(along)), nearest] / np.maximum(distance[part], 1e-6), lengths[nearest]
        aside = distance * np.sqrt(np.maximum(1 - cosine**2, 0))
        left = (self.radius + length - distance * cosine) / (length + 0.3 * self.radius)  # 1 within the nodule, 0 at the tip
        return np.where(cosine > 0, SPICULE_MM * np.clip(left, -1, 1.2) - aside, -np.inf)


def _spread_out(count, rng):
    """Unit vectors (count, 3), none close to another."""
    found = rng.normal(size=(count, 3))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for _ in range(12):  # they push one another away
        apart = found[:, None] - found[None]
        push = (apart / (np.sum(apart**2, -1, keepdims=True) + 0.05) ** 1.5).sum(1)
        found += 0.05 * push
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found
