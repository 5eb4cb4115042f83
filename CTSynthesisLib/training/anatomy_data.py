"""Training material of the model of anatomy: chests of real persons as tissue maps, and the standard anatomy fitted to each.

Everything lies in one frame, the chest's: 288 × 320 × 448 mm about the middle of the standard anatomy. Of each person there are the shares
of six tissues in cells of 4 mm and the place in the standard anatomy of each cell of 8 mm. With so few persons most of the variety
comes from what is done to them: two persons' fits are blended, and all is bent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..anatomy import understand
from ..errors import UnusableInput
from ..regions import REGIONS
from ..synthesis.anatomy_frame import CELL_MM, CELLS, KNOT_MM, SHARES_MM, TISSUES, identity, sampled
from ..synthesis.condition import BLOOD, BONE, FAT, GAS, LUNG, SOFT
from ..synthesis.standard_anatomy import place, standard_anatomy
from ..volume import Geometry
from .slab_data import FIRST_ORGAN, Case, load_cases

_REGION_OF_CLASS = {GAS: "airway", LUNG: "lungs", FAT: "fat", SOFT: "soft_tissue", BLOOD: "blood", BONE: "bone"}
_VALUE = {segment.name: segment.value for segment in REGIONS}
LEAST_LUNG_ML = 1200.0  # whoever shows less is no whole chest


@dataclass(frozen=True, eq=False)
class Person:
    """``shares`` (tissues, 2K, 2J, 2I) of each tissue in cells of 4 mm, ``seen`` (2K,) whether the scan reaches that slice, and
    ``field`` (3, K, J, I): displacement in mm along (k, j, i) from a cell of 8 mm to its place in the standard anatomy."""

    name: str
    shares: torch.Tensor
    seen: torch.Tensor
    field: torch.Tensor


def load_persons(data: str | Path, cache: str | Path, *, leave_out: tuple[str, ...] = (), report=print) -> list[Person]:
    """Every case under ``data`` that shows both lungs, fitted once and kept in ``cache``.

    Raises
    ------
    UnusableInput
        If there are fewer than two.
    """
    found = []
    for name, load in whole_chests(data, cache, leave_out=leave_out, report=report):
        kept = Path(cache) / f"{name}.chest.npz"
        if not kept.exists():
            case = load()
            if case is None:
                continue
            report(f"fitting the standard anatomy to {name}")
            _prepare(case, kept)
        with np.load(kept) as one:
            found.append(Person(name, torch.from_numpy(one["shares"]).float() / 255, torch.from_numpy(one["seen"]),
                                torch.from_numpy(one["field"]).float()))  # fmt: skip
    if len(found) < 2:
        raise UnusableInput(f"{data} holds fewer than two scans that show both lungs; the model of anatomy needs whole chests.")
    return found


def whole_chests(
    data: str | Path, cache: str | Path, *, leave_out: tuple[str, ...] = (), report=print
) -> Iterator[tuple[str, Callable[[], Case | None]]]:
    """Names of the cases under ``data`` and how to load each; loading gives None for one that is no whole chest."""
    names = [path.parent.name for path in sorted(Path(data).glob("*/ct.nrrd"))]

    def load(name):
        (case,) = load_cases(data, cache, leave_out=tuple(n for n in names if n != name), report=report)
        return case if lung_ml(case) >= LEAST_LUNG_ML else None

    return ((name, partial(load, name)) for name in names if name not in leave_out)


def lung_ml(case: Case) -> float:
    """What the lungs and their vessels fill."""
    lungs = [value for value, kind in case.tissue.items() if kind == LUNG] + [_VALUE["lung_vessels"]]
    return float(np.isin(case.values, lungs).sum() * np.prod(case.spacing) / 1000)


def _prepare(case: Case, kept: Path):
    values = _as_regions(case)
    geometry = Geometry.from_spacing(values.shape, case.spacing)
    placed = place(values, understand(REGIONS), geometry, seed=0, outline=True)
    if placed is None:
        raise UnusableInput(f"The standard anatomy finds no place in {case.name}; leave it out.")
    at = (placed.at + 0.5) * torch.tensor(standard_anatomy().spacing, dtype=torch.float32)[:, None, None, None]  # mm from its corner
    middle = torch.tensor([n * s / 2 for n, s in zip(standard_anatomy().labels.shape, standard_anatomy().spacing, strict=True)])
    extent = np.array(values.shape) * np.array(case.spacing[::-1])
    # cells of 8 mm, one beyond each border: places (mm) in the scan, and in the anatomy about its middle
    at = at - middle[:, None, None, None]
    inside = torch.from_numpy(_coarse(values > 0, case.spacing, at.shape[1:]))
    x = _cell_centres(values.shape, case.spacing, at.shape[1:])
    offset = torch.stack([(x[a] - at[a])[inside].median() for a in range(3)])  # the scan's place that is the frame's middle
    frame = identity(CELL_MM) + offset[:, None, None, None]
    field = _read(at - (x - offset[:, None, None, None]), x, frame)
    fine = identity(SHARES_MM / 2) + offset[:, None, None, None]  # eight samples a cell
    index = [(fine[a] / step).floor().long() for a, step in enumerate(case.spacing[::-1])]
    outside = torch.zeros(fine.shape[1:], dtype=torch.bool)
    for a, n in enumerate(values.shape):
        outside |= (index[a] < 0) | (index[a] >= n)
        index[a].clamp_(0, n - 1)
    sampled = torch.from_numpy(values.astype(np.int64))[tuple(index)]
    sampled[outside] = 0
    table = torch.zeros(256, dtype=torch.long)
    for value, name in {s.value: s.name for s in REGIONS}.items():
        table[value] = TISSUES.index({"lung_vessels": "lungs", "bowel_gas": "soft_tissue", "blood": "soft_tissue"}.get(name, name))
    tissue = table[sampled]
    shares = torch.stack([F.avg_pool3d((tissue == n).float()[None], 2)[0] for n in range(len(TISSUES))])
    k = identity(SHARES_MM)[0, :, 0, 0] + offset[0]
    seen = (k > 0) & (k < float(extent[0]))
    part = kept.with_name(kept.name + ".part.npz")
    np.savez_compressed(part, shares=(shares * 255).round().byte().numpy(), seen=seen.numpy(), field=field.half().numpy(),
                        overlap=placed.overlap)  # fmt: skip
    part.replace(kept)


def _as_regions(case: Case) -> np.ndarray:
    """The case's own segments as the regions of their tissue."""
    values = case.values.copy()
    for value, kind in case.tissue.items():
        if value >= FIRST_ORGAN:
            values[values == value] = _VALUE[_REGION_OF_CLASS[kind]]
    return values


def _cell_centres(shape, spacing, cells) -> torch.Tensor:
    """Places (3, D, H, W) in mm from the scan's corner of the cells that ``Placed.at`` has."""
    axes = [(torch.arange(-1.0, n - 1.0) + 0.5) * CELL_MM for n in cells]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _coarse(mask, spacing, cells) -> np.ndarray:
    index = []
    for n, step, size in zip(mask.shape, spacing[::-1], cells, strict=True):
        index.append(np.clip(((np.arange(-1, size - 1) + 0.5) * CELL_MM / step).astype(int), 0, n - 1))
    return mask[np.ix_(*index)]


def _read(field, x, where) -> torch.Tensor:
    """``field`` on the cells ``x``, at the places ``where`` (mm); beyond the cells their outermost ones go on."""
    grid = []
    for a in (2, 1, 0):
        first, last = float(x[a].amin()), float(x[a].amax())
        grid.append(2 * (where[a] - first) / (last - first) - 1)
    return F.grid_sample(field[None], torch.stack(grid, -1)[None], padding_mode="border", align_corners=True)[0]


# ------------------------------------------------------------------------------------------------------------------- the batches


@dataclass(frozen=True)
class Variation:
    """Standard deviations of what is done to a person."""

    blended: float = 0.5  # probability that a field is one between two persons
    bend: float = 4.0  # mm, with a knot every 64 mm


class Chests:
    """``sampler(n)`` is batch n: a function of n alone, so that a resumed training sees what it would have seen."""

    def __init__(self, persons: list[Person], variation: Variation, *, slab: int, batch: int, drawn: int, alone: int, seed: int = 0):
        self.persons, self.variation, self.seed = persons, variation, seed
        self.slab, self.batch, self.drawn, self.alone = slab, batch, drawn, alone

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, n))
        first = int(rng.integers(2 * CELLS[0] - self.slab + 1))
        window = slice(first, first + self.slab)
        samples = [self._sample(rng, window if n >= self.alone and m < self.drawn else None) for m in range(self.batch)]
        stacked = {name: torch.stack([one[name] for one in samples if name in one]) for name in samples[0]}
        return stacked | {"first": first}

    @property
    def mean(self) -> torch.Tensor:
        """The persons' mean field on the generator's knots."""
        return on_knots(torch.stack([person.field for person in self.persons]).mean(0))

    def _sample(self, rng, slab):
        """``field`` (3, K, J/2, I/2) on the generator's knots; if a ``slab`` is wanted, its person's ``shares`` there, and where they are
        ``known`` (slab,)."""
        a, b = (self.persons[n] for n in rng.choice(len(self.persons), 2, replace=False))
        blended = slab is None and rng.random() < self.variation.blended
        weight = float(rng.uniform(0.15, 0.85)) if blended else 1.0
        field = weight * a.field + (1 - weight) * b.field
        at = self._moved(rng)  # (3, K, J, I): where in the person each cell of the frame looks
        moved = at - identity(CELL_MM)
        field = moved + sampled(field, at)
        sample = {"field": on_knots(field)}
        if slab is None:
            return sample
        fine = F.interpolate(moved[None], scale_factor=2, mode="trilinear", align_corners=False)[0] + identity(SHARES_MM)
        fine = fine[:, slab]
        shares = sampled(a.shares, fine)
        reach = sampled(a.seen.float()[None, :, None, None], fine).mean((0, 2, 3))
        return sample | {"shares": shares, "known": reach > 0.95}

    def _moved(self, rng):
        """Where in the person (3, K, J, I), in mm, each cell of the frame looks: its own place, smoothly displaced."""
        knots = torch.tensor(rng.normal(0, self.variation.bend, (1, 3, *(max(4, round(n * CELL_MM / 64)) for n in CELLS))))
        bend = F.interpolate(knots.float(), size=CELLS, mode="trilinear", align_corners=True)
        return identity(CELL_MM) + F.avg_pool3d(F.pad(bend, (2,) * 6, mode="replicate"), 5, stride=1)[0]


def on_knots(field: torch.Tensor) -> torch.Tensor:
    """A field (3, K, J, I) of cells of 8 mm on the generator's knots, 16 mm apart in the slice."""
    ratio = int(KNOT_MM / CELL_MM)
    return F.avg_pool3d(field[None], (1, ratio, ratio))[0]
