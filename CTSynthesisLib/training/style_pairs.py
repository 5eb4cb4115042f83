"""What the style network learns from: slabs of one person's anatomy, restyled by the fast path after another person's scan.

Of each case a few slabs about its body are drawn by the default model, as the fast path does for a reference. A *style* is a case, or a
case whose scan was made noisier, softer, or brighter: few scanners have to stand for many. A *pair* is a style and a slab of some case,
restyled. Everything is prepared once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..anatomy import understand
from ..errors import UnusableInput
from ..files import read_segmentation, read_volume, write_segmentation
from ..regions import REGIONS, segment_regions
from ..synthesis.generate import generate
from ..synthesis.noise import lattice_noise
from ..synthesis.organ_style import most_of, restyle, texture_of
from ..synthesis.request import Request
from ..synthesis.scan_quality import blur
from ..synthesis.style_features import load_features
from ..synthesis.style_network import OUTSIDE_HU, Moments, Shown, Told, guide_on, moments_each, told_of
from ..synthesis.style_reference import Chosen, Slabs, slabs_of
from ..synthesis.style_refine import gram_distance
from ..synthesis.texture_transfer import fit, interior
from ..volume import LabelMap, Volume

SPACING = 0.9  # mm in-plane
FEWEST = 1500  # voxels of a structure in a slab that count
UNDERSTOOD = tuple(understand(REGIONS))
TISSUES = {u.segment.value: u.structure.tissue for u in UNDERSTOOD}
BLOOD_VALUE = next(s.value for s in REGIONS if s.name == "blood")


@dataclass(frozen=True)
class Plan:
    """How much is prepared: ``looks`` of each case as a style (the first is the scan itself), ``contents`` restyled after each of them."""

    looks: int = 4
    contents: int = 3
    seed: int = 0


def prepare(data: str | Path, out: str | Path, plan: Plan, *, leave_out=(), report: Callable[[str], None] = print) -> list[Path]:
    """Pairs of every case under ``data`` but those left out, as files in ``out``/pairs; what is there already is kept.

    Raises
    ------
    UnusableInput
        If fewer than two cases are there.
    """
    out = Path(out)
    folders = [path.parent for path in sorted(Path(data).glob("*/ct.nrrd")) if path.parent.name not in leave_out]
    if len(folders) < 2:
        raise UnusableInput(f"{data} holds {len(folders)} usable cases; the style network learns from pairs: give at least two.")
    done = []
    persons: dict[str, _Person] = {}
    for look in range(plan.looks):
        for number, folder in enumerate(folders):
            wanted = [out / "pairs" / f"{folder.name}-{look}-{n}.pt" for n in range(plan.contents)]
            if not all(path.exists() for path in wanted):
                for each in folders:
                    if each.name not in persons:
                        report(f"drawing {each.name}")
                        persons[each.name] = _person(each, out)
                report(f"style {folder.name}, look {look}")
                _pairs(persons, folder.name, look, wanted, plan, np.random.default_rng((plan.seed, number, look)))
            done += wanted
    return done


@dataclass(frozen=True, eq=False)
class _Person:
    name: str
    shown: Slabs
    drawn: np.ndarray  # (n, H, W) int16: what the model makes of the slabs' labels

    def slab(self, n: int, hu: np.ndarray) -> tuple[Volume, LabelMap]:
        first, geometry = int(self.shown.firsts[n]), self.shown.geometries[n]
        part = slice(first, first + geometry.shape[0])
        labels = np.ascontiguousarray(self.shown.labels[part])
        return Volume(np.rint(hu[part]).astype(np.int16), geometry), LabelMap(labels, geometry, REGIONS)

    def mask(self, values: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(np.isin(self.shown.labels, values))


def _person(folder: Path, out: Path) -> _Person:
    scan, kept = read_volume(folder / "ct.nrrd"), out / "regions" / f"{folder.name}.seg.nrrd"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_segmentation(segment_regions(scan), kept)
    regions = replace(read_segmentation(kept), geometry=scan.geometry)
    values = [s.value for s in REGIONS if (regions.array == s.value).any()]
    shown = slabs_of(scan, regions, [(v,) for v in values], (SPACING, SPACING))
    shown = replace(shown, hu=np.where(shown.labels == 0, OUTSIDE_HU, shown.hu).astype(np.float32), labels=shown.labels.astype(np.uint8))
    drawn = out / "drawn" / f"{folder.name}.npy"
    if not drawn.exists():
        drawn.parent.mkdir(parents=True, exist_ok=True)
        person = _Person(folder.name, shown, shown.hu)
        made = [generate(person.slab(n, shown.hu)[1], Request(outside="air")).volume.array for n in range(len(shown.geometries))]
        np.save(drawn, np.concatenate(made))
    return _Person(folder.name, shown, np.load(drawn))


@dataclass(frozen=True, eq=False)
class _Look:
    """A style, measured: by label values."""

    textures: dict
    transfers: dict
    told: dict[tuple, Told]
    targets: dict[tuple, Moments]
    figures: dict


def _look_of(person: _Person, hu: np.ndarray, features) -> _Look:
    shown = replace(person.shown, hu=hu)
    textures = {(s.value,): texture_of(shown, (s.value,), shown.apart) for s in REGIONS}
    textures = {values: texture for values, texture in textures.items() if texture}
    drawn = torch.from_numpy(person.drawn.astype(np.float32))
    transfers = {v: fit(*most_of(drawn, person.mask(v)), texture, seed=1, steady=True) for v, texture in textures.items()}
    ours = np.concatenate([_restyled(*person.slab(n, person.drawn), transfers, seed=1) for n in range(len(shown.geometries))])
    theirs = torch.from_numpy(hu)
    both = [Shown.of(image, shown.labels, {v: v for v in textures}) for image in (hu, ours)]
    told = told_of(features, *both, {v: (t, TISSUES[v[0]]) for v, t in textures.items()})
    targets = moments_each(features, theirs[::2], {v: person.mask(v)[::2] for v in told})
    return _Look(textures, transfers, told, targets, {v: _figures(theirs, person.mask(v)) for v in told})


def _pairs(persons: dict[str, _Person], name: str, look: int, wanted: list[Path], plan: Plan, rng):
    features, person = load_features(), persons[name]
    of = _look_of(person, person.shown.hu if look == 0 else _disguised(person.shown, rng), features)
    others = [p for p in persons.values() if p is not person]
    for n, path in enumerate(wanted):
        content = person if look == 0 and n == 0 else others[int(rng.integers(len(others)))]
        which, seed = int(rng.integers(len(content.shown.geometries))), int(rng.integers(2**31))
        plain, labelmap = content.slab(which, content.drawn)
        fast = _restyled(plain, labelmap, of.transfers, seed=seed)
        _save(path, features, of, *(torch.from_numpy(a.astype(np.float32)) for a in (plain.array, fast, labelmap.array)))


def _restyled(volume: Volume, labelmap: LabelMap, transfers: dict, *, seed: int) -> np.ndarray:
    chosen = [(Chosen(u, (u.segment.value,), 1.0), transfers[u.segment.value,], 0.0) for u in UNDERSTOOD if (u.segment.value,) in transfers]
    return restyle(volume, labelmap, chosen, seed=seed)


def _save(path: Path, features, of: _Look, plain, fast, labels):
    plain, fast = (torch.where(labels == 0, OUTSIDE_HU, a) for a in (plain, fast))
    masks = {v: labels == v[0] for v in of.told}
    masks = {v: mask for v, mask in masks.items() if mask.sum() >= FEWEST and mask[::2].any() and v in of.targets}
    before = moments_each(features, plain[::2], {v: mask[::2] for v, mask in masks.items()})
    structures = []
    for v, mask in masks.items():
        told, target = of.told[v], of.targets[v].grams
        own = {"value": v[0], "statistics": told.statistics, "spread": told.spread, "step": told.step}
        levels = {"wanted": of.figures[v], "fast": _figures(fast, mask)}
        structures.append(own | levels | {"target": target, "before": gram_distance(before[v].grams, target)})
    together = torch.stack(list(masks.values()), 1).float() if masks else None
    guide = guide_on(features, fast, together, [of.told[v] for v in masks]) if masks else torch.zeros_like(fast)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    torch.save({"fast": fast.to(torch.int16), "labels": labels.to(torch.uint8), "guide": guide.half(), "structures": structures}, part)
    part.replace(path)


def _figures(hu: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the interior, HU."""
    inside = hu[interior(mask)]
    return float(inside.mean()), float(inside.std())


def _disguised(shown: Slabs, rng) -> np.ndarray:
    """The scan as another scanner, dose or contrast phase might have shown it."""
    hu = torch.from_numpy(shown.hu)
    kind = rng.integers(4)
    if kind == 0:
        hu = blur(hu, float(rng.uniform(0.4, 1.2)))
    elif kind == 1:  # sharper
        hu = hu + float(rng.uniform(0.3, 1.0)) * (hu - blur(hu, 0.8))
    if kind >= 2 or rng.random() < 0.3:
        bands = lattice_noise(int(rng.integers(2**31)), (0, 0, 0), hu.shape)
        share = rng.dirichlet(np.ones(len(bands) - 1)) ** 0.5
        hu = hu + float(rng.uniform(4, 25)) * sum(float(w) * band for w, band in zip(share, bands, strict=False))
    if rng.random() < 0.6:
        offset = {s.value: rng.normal(0, 15) for s in REGIONS}
        offset[BLOOD_VALUE] = rng.uniform(-60, 120)
        table = torch.zeros(256)
        for value, more in offset.items():
            table[value] = more
        shift = table[torch.from_numpy(shown.labels).long()]
        hu = hu + blur(shift, 1.0)
    return torch.where(torch.from_numpy(shown.labels) == 0, OUTSIDE_HU, hu.clamp(-1024, 3071)).numpy()
