"""Whole chests as cubes of voxels, for the presets that learn voxels: CT-SGAN and the 3D GAN that it is compared with.

A cube holds the lungs from base to apex and 15 mm more, and the whole body across, whatever its size: 224 slices of 224 × 224 pixels. HU
from -1000 to 1000 are -1 to 1, the same for every scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UnusableInput
from ..files.beside import written_beside
from ..synthesis.condition import LUNG
from .anatomy_data import LEAST_LUNG_ML, whole_chests
from .slab_data import Case

MARGIN_MM = 15.0
HU_RANGE = (-1000.0, 1000.0)


def to_network(hu: torch.Tensor) -> torch.Tensor:
    low, high = HU_RANGE
    return ((hu.float() - low) / (high - low) * 2 - 1).clamp(-1, 1)


def to_hounsfield(x: torch.Tensor) -> torch.Tensor:
    low, high = HU_RANGE
    return (x.float() + 1) / 2 * (high - low) + low


@dataclass(frozen=True, eq=False)
class Cube:
    """``hu`` (size, size, size) int16, and its voxels' size (i, j, k) in mm."""

    name: str
    hu: torch.Tensor
    spacing: tuple[float, float, float]


def load_cubes(data: str | Path, cache: str | Path, size: int, *, leave_out: tuple[str, ...] = (), report=print) -> list[Cube]:
    """Every case under ``data`` that shows both lungs, as a cube, made once and kept in ``cache``."""
    found = []
    for name, load in whole_chests(data, cache, leave_out=leave_out, report=report):
        kept = Path(cache) / f"{name}.{size}.npz"
        if not kept.exists():
            case = load()
            if case is None:
                continue
            hu, spacing = _cube(case, size)
            with written_beside(kept) as part, open(part, "wb") as file:
                np.savez(file, hu=hu, spacing=spacing)
        with np.load(kept) as one:
            found.append(Cube(name, torch.from_numpy(one["hu"]), tuple(one["spacing"].tolist())))
    if not found:
        raise UnusableInput(f"{data} holds no scan that shows both lungs ({LEAST_LUNG_ML:.0f} ml of them); whole chests are needed.")
    return found


def _cube(case: Case, size: int):
    lungs = np.isin(case.values, [value for value, kind in case.tissue.items() if kind == LUNG])
    spans = [np.flatnonzero(lungs.any(axis=(1, 2)))] + [np.flatnonzero((case.values > 0).any(axis=axes)) for axes in ((0, 2), (0, 1))]
    steps = case.spacing[::-1]
    middle = [(span[0] + span[-1] + 1) / 2 * step for span, step in zip(spans, steps, strict=True)]
    height = (np.ptp(spans[0]) + 1) * steps[0] + 2 * MARGIN_MM
    side = max((np.ptp(span) + 1) * step for span, step in zip(spans[1:], steps[1:], strict=True)) + 10.0
    extent = (height, side, side)
    grid = [
        2 * (m + ((torch.arange(size) + 0.5) / size - 0.5) * e) / (n * step) - 1
        for m, e, n, step in zip(middle, extent, case.hu.shape, steps, strict=True)
    ]
    hu = torch.from_numpy(np.maximum(case.hu, np.int16(HU_RANGE[0]))).float()[None, None] - HU_RANGE[0]
    sharp = torch.stack(torch.meshgrid(*grid, indexing="ij")[::-1], -1)[None]
    cube = F.grid_sample(hu, sharp, align_corners=False)[0, 0] + HU_RANGE[0]  # air comes in from outside
    return cube.round().short().numpy(), [side / size, side / size, height / size]


@dataclass(frozen=True)
class Augmentation:
    """Of slices: mirrored with probability 1/2, and standard deviations of what else is done."""

    zoom: float = 0.07  # log
    stretch: float = 0.05  # log, one axis against the other
    turn: float = 0.06  # rad
    shift: float = 0.03  # of the side
    bend: float = 0.015  # of the side, at 5 × 5 knots


def augmented(stack: torch.Tensor, a: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """A stack (D, H, W) in network units, mirrored, zoomed, turned, shifted and bent in its plane; air comes in from outside."""
    if rng.random() < 0.5:
        stack = stack.flip(-1)
    scale, stretch, angle = np.exp(rng.normal(0, a.zoom)), np.exp(rng.normal(0, a.stretch)), rng.normal(0, a.turn)
    matrix = torch.tensor(
        [[scale * stretch * np.cos(angle), -scale * np.sin(angle), rng.normal(0, 2 * a.shift)],
         [scale * np.sin(angle), scale / stretch * np.cos(angle), rng.normal(0, 2 * a.shift)]], dtype=torch.float32,
    )  # fmt: skip
    grid = F.affine_grid(matrix[None], [1, 1, *stack.shape[1:]], align_corners=False)
    bend = torch.tensor(rng.normal(0, 2 * a.bend, (1, 2, 5, 5)), dtype=torch.float32)
    grid = grid + F.interpolate(bend, size=stack.shape[1:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(stack[None] + 1, grid, align_corners=False)[0] - 1


class Slabs:
    """``sampler(n)`` is batch n, a function of n alone: three-slices (B, N, 3, H, W) at ``slab`` neighbouring places from ``first`` on."""

    def __init__(self, cubes: list[Cube], augmentation: Augmentation, *, slab: int, batch: int, seed: int = 0):
        self.cubes, self.augmentation, self.slab, self.batch, self.seed = cubes, augmentation, slab, batch, seed

    def __call__(self, n: int) -> dict:
        rng = np.random.default_rng((self.seed, n))
        first = int(rng.integers(self.cubes[0].hu.shape[0] - self.slab - 1))
        stacks = []
        for _ in range(self.batch):
            cube = self.cubes[rng.integers(len(self.cubes))].hu[first : first + self.slab + 2]
            stacks.append(augmented(to_network(cube), self.augmentation, rng).unfold(0, 3, 1).permute(0, 3, 1, 2))  # (N, 3, H, W)
        return {"real": torch.stack(stacks), "first": first}


class Volumes:
    """``sampler(n)`` is batch n of whole volumes (B, 1, size, size, size)."""

    def __init__(self, cubes: list[Cube], augmentation: Augmentation, *, size: int, batch: int, seed: int = 0):
        self.cubes, self.augmentation, self.size, self.batch, self.seed = cubes, augmentation, size, batch, seed

    def __call__(self, n: int) -> dict:
        rng = np.random.default_rng((self.seed, n))
        found = []
        for _ in range(self.batch):
            volume = to_network(self.cubes[rng.integers(len(self.cubes))].hu)
            volume = F.interpolate(volume[None, None], size=(self.size,) * 3, mode="trilinear", align_corners=False)[0, 0]
            found.append(augmented(volume, self.augmentation, rng))
        return {"real": torch.stack(found)[:, None]}
