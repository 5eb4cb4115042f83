"""The frame in which the model of anatomy lives, and the standard anatomy in it.

The frame is a box of 288 × 320 × 448 mm (k, j, i) about the middle of the standard anatomy. A *field* (3, K, J, I) says for each of its
cells of 8 mm by how many mm its place in the standard anatomy differs from its own; the field 0 is the standard anatomy itself.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from .condition import AIR, BLOOD, BODY, BONE, CLASS_OF_TISSUE, FAT, GAS, LUNG, SOFT
from .standard_anatomy import standard_anatomy

CELL_MM, SHARES_MM, KNOT_MM = 8.0, 4.0, 16.0
CELLS = (36, 40, 56)  # (k, j, i)
KNOTS = (36, 20, 28)  # of the generated fields: slices of 8 mm, with a knot every 16 mm
TISSUES = ("outside", "fat", "soft_tissue", "bone", "lungs", "airway")


def identity(step: float, cells: tuple[int, int, int] = CELLS) -> torch.Tensor:
    """Places (3, D, H, W) in mm about the frame's middle of the centres of its cells of ``step`` mm; ``cells`` of 8 mm for a larger one."""
    axes = [(torch.arange(round(n * CELL_MM / step)) + 0.5) * step - n * CELL_MM / 2 for n in cells]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sampled(x: torch.Tensor, at: torch.Tensor, cells: tuple[int, int, int] = CELLS) -> torch.Tensor:
    """``x`` (C, ...) over the whole frame, at places (3, D, H, W) in mm about its middle; beyond it its outermost cells go on."""
    grid = torch.stack([at[a] / (cells[a] * CELL_MM / 2) for a in (2, 1, 0)], -1)[None]
    return F.grid_sample(x[None].float(), grid, padding_mode="border", align_corners=False)[0]


def tissue_of_classes() -> dict[int, int]:
    """Index into TISSUES of each class of the condition, gas apart: it is airway in the chest and stands for its wall in the bowel."""
    return {AIR: 0, FAT: 1, SOFT: 2, BLOOD: 2, BODY: 2, BONE: 3, LUNG: 4, GAS: 5}


@cache
def standard_shares() -> torch.Tensor:
    """Share (tissues, D, H, W) of each tissue in cells of 4 mm of the standard anatomy, continued beyond its ends; the middle of the grid
    is that of the anatomy."""
    anatomy = standard_anatomy()
    table = torch.zeros(256, dtype=torch.long)
    for u in anatomy.understood:
        kind = tissue_of_classes()[CLASS_OF_TISSUE[u.structure.tissue]]
        bowel = u.structure.name in ("bowel_gas",)
        table[u.segment.value] = TISSUES.index("soft_tissue") if bowel else kind
    labels = anatomy.continued
    samples = []
    for n, step in zip(labels.shape, anatomy.spacing, strict=True):
        cells = int(np.ceil(n * step / SHARES_MM))
        at = (np.arange(2 * cells) - cells + 0.5) * SHARES_MM / 2 / step + n / 2
        samples.append((at.astype(int).clip(0, n - 1), (at >= 0) & (at < n)))
    sampled = labels[np.ix_(*(index for index, _ in samples))]
    for axis, (_, within) in enumerate(samples):
        np.moveaxis(sampled, axis, 0)[~within] = 0
    tissue = table[torch.from_numpy(sampled.astype(np.int64))]
    return torch.stack([F.avg_pool3d((tissue == n).float()[None], 2)[0] for n in range(len(TISSUES))])


def drawn_shares(field: torch.Tensor, first: int = 0, count: int | None = None) -> torch.Tensor:
    """Shares (B, tissues, count, 2J, 2I) of the tissues in the frame's cells of 4 mm under fields (B, 3, …), differentiable.

    ``first`` and ``count`` choose slices of 4 mm; by default all of them.
    """
    at = refined(field, first, count) + identity(SHARES_MM).to(field)[:, first : None if count is None else first + count]
    shares = standard_shares().to(field)
    extent = [n * SHARES_MM / 2 for n in shares.shape[1:]]
    grid = torch.stack([at[:, a] / extent[a] for a in (2, 1, 0)], -1)
    drawn = F.grid_sample(shares.expand(len(field), *shares.shape), grid, padding_mode="zeros", align_corners=False)
    return torch.cat([1 - drawn[:, 1:].sum(1, keepdim=True), drawn[:, 1:]], 1)  # beyond the anatomy there is air


def refined(field: torch.Tensor, first: int = 0, count: int | None = None) -> torch.Tensor:
    """Fields (B, 3, K, J, I) on any grid of the frame, interpolated linearly at cells of 4 mm: (B, 3, count, 2J, 2I)."""
    fine = [round(n * CELL_MM / SHARES_MM) for n in CELLS]
    along, down, across = (interpolation(n, m).to(field) for n, m in zip(fine, field.shape[2:], strict=True))
    x = torch.einsum("kd,bcdji->bckji", along[first : None if count is None else first + count], field)
    return down @ (x @ across.T)


@cache
def interpolation(fine: int, coarse: int) -> torch.Tensor:
    """(fine, coarse): weights with which ``fine`` cells read ``coarse`` ones over the same length."""
    at = ((torch.arange(fine) + 0.5) * coarse / fine - 0.5).clamp(0, coarse - 1)
    return (1 - (at[:, None] - torch.arange(coarse)).abs()).clamp(min=0)
