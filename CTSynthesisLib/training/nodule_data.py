"""Training samples for the nodule injector and the eraser: parametric nodules in real lung, and the few that readers outlined.

The injector's target is the scan with the nodule in it, blurred as the scan is, and with tissue's grain; the eraser's is the scan as it
was. The eraser sees the nodule in its input, as in paper 004; beside it, spheres of healthy lung are hidden and asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..anatomy import understand
from ..errors import UnusableInput
from ..files import read_segmentation
from ..regions import REGIONS
from ..synthesis import nodule_voi as voi_
from ..synthesis.nodule_shape import EDGES, GLASS_HU, KINDS, Nodule, Rendered
from ..synthesis.nodule_voi import Voi
from ..volume import reorder
from .slab_data import Case, load_cases

VALUE = {segment.name: segment.value for segment in REGIONS}
PLACES = 20_000  # voxels of lung that a case offers


@dataclass(frozen=True)
class NoduleSampling:
    """How samples are drawn; probabilities unless a unit is given."""

    side: int = 48  # mm
    batch: int = 1
    diameters: tuple[float, float] = (3.5, 20.0)  # mm, small ones more often
    kinds: tuple[float, float, float] = (0.5, 0.2, 0.3)  # solid, part-solid, ground-glass
    edges: tuple[float, float, float] = (0.4, 0.3, 0.3)
    outlined: float = 0.06  # a nodule that readers outlined, where the data have one; injector
    spheres: float = 0.2  # a hidden sphere of healthy lung instead of a nodule; eraser
    blur: tuple[float, float] = (0.35, 0.65)  # mm, of the scanner
    slices: tuple[float, float] = (0.25, 0.45)  # and across its slices, of their distance


@dataclass(frozen=True, eq=False)
class Lung:
    """A case with its places: voxels (n, 3) of lung, the spread of its soft tissue in HU, and outlined nodules (bool arrays) if any."""

    case: Case
    places: np.ndarray
    noise: float
    outlined: tuple[np.ndarray, ...] = ()


def load_lungs(data, cache, *, leave_out=()) -> list[Lung]:
    """Every case under ``data`` that shows at least 100 ml of lung.

    Raises
    ------
    UnusableInput
        If there is none.
    """
    lungs = []
    for case in load_cases(data, cache, leave_out=leave_out):
        inside = (case.values == VALUE["lungs"]) | (case.values == VALUE["lung_vessels"])
        if inside.sum() * np.prod(case.spacing) < 100_000:
            continue
        outlined = _outlined(Path(data) / case.name)
        places = np.argwhere(inside)
        rng = np.random.default_rng(len(places))
        places = places[rng.choice(len(places), min(PLACES, len(places)), replace=False)]
        lungs.append(Lung(case, places, voi_.noise_of(case.hu, case.values == VALUE["soft_tissue"]), outlined))
    if not lungs:
        raise UnusableInput(f"No case in {data} shows lungs of 100 ml or more; nodules are learned in chest CT.")
    return lungs


def _outlined(folder: Path) -> tuple[np.ndarray, ...]:
    """Nodules that the case's masks hold, on the axes of its arrays."""
    if not (folder / "segmentation.nrrd").exists():
        return ()
    drawn = read_segmentation(folder / "segmentation.nrrd")
    found = [u.segment for u in understand(drawn.segments) if u.how != "not understood" and u.structure.name.startswith("nodule")]
    axes, flips = drawn.geometry.anatomical_axes
    return tuple(np.ascontiguousarray(reorder(drawn.mask(segment), axes, flips)) for segment in found)


class NoduleSampler:
    """``sampler(n)`` is batch n, a function of n alone: inputs (B, 5, D, H, W), target (B, D, H, W), both in network units."""

    def __init__(self, lungs: list[Lung], sampling: NoduleSampling, *, erase: bool, seed: int = 0):
        self.lungs, self.sampling, self.erase, self.seed = lungs, sampling, erase, seed
        self.showing = [lung for lung in lungs if lung.outlined]
        extent = np.sqrt([np.prod(lung.case.hu.shape) * np.prod(lung.case.spacing) for lung in lungs])
        self.weights = extent / extent.sum()

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, n))
        pairs = [self._sample(rng) for _ in range(self.sampling.batch)]
        turned = [_turned(torch.cat([x, target[None]]), rng) for x, target in pairs]
        together = torch.stack(turned)
        return {"inputs": together[:, :5].contiguous(), "target": together[:, 5].contiguous()}

    def _sample(self, rng):
        if not self.erase and self.showing and rng.random() < self.sampling.outlined:
            return _real(self.showing[rng.integers(len(self.showing))], self.sampling, rng)
        lung = self.lungs[rng.choice(len(self.lungs), p=self.weights)]
        where = lung.places[rng.integers(len(lung.places))] + rng.uniform(-0.5, 0.5, 3)
        voi = voi_.voi_at(lung.case.hu, lung.case.spacing, where, self.sampling.side)
        labels = voi_.cut(lung.case.values, voi.start, voi.hu.shape)
        sample = erasing if self.erase else injecting
        return sample(voi, labels, lung, self.sampling, rng)


def _nodule(sampling, rng) -> Nodule:
    low, high = np.log(sampling.diameters)
    kind, edge = rng.choice(KINDS, p=sampling.kinds), rng.choice(EDGES, p=sampling.edges)
    return Nodule(float(np.exp(rng.uniform(low, high))), str(kind), str(edge), int(rng.integers(1 << 30)))


def place_in(voi: Voi, labels, sampling, noise, rng):
    """A parametric nodule as the scanner would show it: (rendered, share, grain, injected scan in HU); only lung makes way for it."""
    rendered = voi_.nodule_in(voi, _nodule(sampling, rng))
    inside, healthy = _inside(labels), labels == VALUE["lungs"]
    rendered = Rendered(rendered.occupancy * inside, rendered.mask & inside, rendered.hu)
    share = voi_.opacity(rendered, voi_.base_of(voi, healthy, rendered.mask))
    texture = voi_.texture(voi, healthy & ~rendered.mask)
    blur = rng.uniform(*sampling.blur), rng.uniform(*sampling.slices)
    seen, filling = (voi_.smeared(a, voi.native.spacing, *blur) for a in (share, rendered.occupancy))
    truth = voi_.grain(texture, voi.hu.shape, int(rng.integers(1 << 30)), (0, 0, 0))
    amount = voi_.grain_inside(seen, filling, noise, texture.spread)
    injected = voi_.composite(voi.hu, seen) + amount * truth
    grain = voi_.grain(texture, voi.hu.shape, int(rng.integers(1 << 30)), (0, 0, 0))
    return rendered, voi_.smeared(share, voi.native.spacing), grain, texture, injected


def injecting(voi: Voi, labels, lung: Lung, sampling: NoduleSampling, rng):
    """Inputs (5, D, H, W) and target (D, H, W) for the injector."""
    rendered, share, grain, texture, injected = place_in(voi, labels, sampling, lung.noise, rng)
    x = voi_.injector_inputs(voi, rendered, share, labels == VALUE["lungs"], _inside(labels), grain, lung.noise, texture)
    return x, torch.from_numpy(voi_.units(voi.to_grid(injected)))


def erasing(voi: Voi, labels, lung: Lung, sampling: NoduleSampling, rng):
    """Inputs and target for the eraser."""
    rendered, _, grain, texture, injected = place_in(voi, labels, sampling, lung.noise, rng)
    where = voi_.spread(rendered.occupancy > 0.1, voi.native.spacing, float(rng.uniform(2.5, 4.0))) * _inside(labels)
    healthy, target = labels == VALUE["lungs"], voi.hu
    hidden = rng.random() < sampling.spheres
    seen = Voi(target if hidden else injected, voi.start, voi.native, voi.grid, voi.centre)
    if hidden:
        seen = Voi(voi_.filled(seen, where, healthy), voi.start, voi.native, voi.grid, voi.centre)
    borrowed = voi_.borrowed(lung.case.hu, lung.case.values, lung.case.spacing, seen, where, rng)
    borrowed = texture.spread * grain if borrowed is None else borrowed
    x = voi_.eraser_inputs(seen, rendered.occupancy, where, healthy, borrowed)
    return x, torch.from_numpy(voi_.units(voi.to_grid(target)))


def _real(lung: Lung, sampling, rng):
    """Inputs and target for the injector where the scan itself shows an outlined nodule."""
    outline = lung.outlined[rng.integers(len(lung.outlined))]
    where = np.argwhere(outline).mean(0) + rng.uniform(-2, 2, 3)
    voi = voi_.voi_at(lung.case.hu, lung.case.spacing, where, sampling.side)
    labels, mask = voi_.cut(lung.case.values, voi.start, voi.hu.shape), voi_.cut(outline, voi.start, voi.hu.shape)
    occupancy = voi_.gaussian(mask, voi.native.spacing, 0.6)
    hu = np.full_like(voi.hu, np.median(voi.hu[mask]) if mask.any() else GLASS_HU)
    healthy = (labels == VALUE["lungs"]) & (voi_.gaussian(mask, voi.native.spacing, 3.0) < 0.02)
    clean = Voi(voi_.filled(voi, voi_.spread(mask, voi.native.spacing, 3.0), healthy), voi.start, voi.native, voi.grid, voi.centre)
    rendered = Rendered(occupancy, mask, hu)
    share = voi_.smeared(voi_.opacity(rendered, voi_.base_of(voi, healthy, mask)), voi.native.spacing)
    texture = voi_.texture(voi, healthy)
    grain = voi_.grain(texture, voi.hu.shape, int(rng.integers(1 << 30)), (0, 0, 0))
    x = voi_.injector_inputs(clean, rendered, share, healthy, np.ones_like(mask), grain, lung.noise, texture)
    return x, torch.from_numpy(voi_.units(voi.to_grid(voi.hu)))


def _inside(labels):
    return (labels == VALUE["lungs"]) | (labels == VALUE["lung_vessels"])


def _turned(volume: torch.Tensor, rng) -> torch.Tensor:
    """Mirrored along any axis, rows and columns exchanged; for training only."""
    volume = volume.flip([axis for axis in (1, 2, 3) if rng.random() < 0.5])
    return volume.transpose(2, 3) if rng.random() < 0.5 else volume
