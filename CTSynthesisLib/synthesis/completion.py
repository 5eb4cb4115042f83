"""Filling in what a segmentation leaves open: tissues in the unspecified interior of the body.

The generator draws what it is told; told "body", it can only paint grey. So a small network that sees the whole body first guesses a tissue
for every unspecified voxel, on a grid of 4 mm, and the guess is drawn by chance in proportion to its probability: the seed chooses one
plausible anatomy. What the user painted is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, load_weights
from ..networks.completion_unet import CompletionUNet, CompletionUNetConfig
from ..volume import Geometry
from .condition import BLOOD, BODY, BONE, CLASSES, FAT, GAS, LUNG, SOFT
from .noise import white_noise

CELL_MM = 4.0
FINE_MM = 2.0  # labels are sampled on this grid before they are averaged to cells
GUESSES = (GAS, LUNG, FAT, SOFT, BLOOD, BONE)  # the tissues of the network's classes
CHANCE = 0.7  # how far chance may overrule the more probable tissue, in units of a logit
_STREAM = 16  # of the noise, one a class from here


@dataclass(frozen=True)
class Cells:
    """The coarse grid over a label map: nearest voxel index of each fine sample along (k, j, i), and the number of cells along each."""

    samples: tuple[np.ndarray, ...]
    count: tuple[int, ...]

    @classmethod
    def over(cls, geometry: Geometry) -> Cells:
        samples, count = [], []
        for size, step in zip(geometry.shape, geometry.spacing[::-1], strict=True):
            cells = max(1, int(np.ceil(size * step / CELL_MM)))
            at = (np.arange(2 * cells) + 0.5) * FINE_MM / step
            samples.append(np.clip(at.astype(int), 0, size - 1))
            count.append(cells)
        return cls(tuple(samples), tuple(count))

    def read(self, array: np.ndarray) -> np.ndarray:
        return array[np.ix_(*self.samples)]


def inputs(tissue: torch.Tensor, hu: torch.Tensor, contrast: float) -> torch.Tensor:
    """What the network sees (10, D, H, W) of ``tissue`` classes and their expected HU on the fine grid, (2D, 2H, 2W)."""
    planes = torch.stack([tissue == n for n in range(CLASSES)]).float()
    level = ((hu - 40) / 150).clamp(-2, 2) * torch.isin(tissue, torch.tensor([SOFT, BLOOD]))
    cells = F.avg_pool3d(torch.cat([planes, level[None]]), 2)
    return torch.cat([cells, torch.full_like(cells[:1], contrast)])


def padded(x: torch.Tensor, stride: int) -> torch.Tensor:
    """``x`` (…, D, H, W) continued to multiples of ``stride`` by its outermost cells."""
    pad = [n for size in reversed(x.shape[-3:]) for n in (0, -size % stride)]
    return F.pad(x[None], pad, mode="replicate")[0]


@torch.inference_mode()
def complete(
    card: ModelCard, values: np.ndarray, tissue: np.ndarray, hu: np.ndarray, geometry: Geometry, *, seed: int, contrast: bool
) -> np.ndarray:
    """Tissue classes (k, j, i) uint8 for the voxels of class BODY; :data:`CLASSES` wherever the segmentation has spoken.

    Parameters
    ----------
    values : (k, j, i) labels on an axial grid; ``tissue`` and ``hu`` are tables over them, as in :class:`Condition`.
    contrast : bool
        Whether blood is enhanced; only then can it be told from soft tissue.
    """
    cells = Cells.over(geometry)
    sampled = cells.read(values)
    x = inputs(torch.from_numpy(tissue[sampled]), torch.from_numpy(hu[sampled].astype(np.float32)), float(contrast))
    network = _network(card)
    logits = network(padded(x, network.config.stride)[None])[0, :, : cells.count[0], : cells.count[1], : cells.count[2]]
    logits = logits + CHANCE * _chance(len(GUESSES), seed, geometry, cells.count)
    return _to_voxels(logits, (tissue == BODY)[values], geometry)


def _chance(classes, seed, geometry: Geometry, shape) -> torch.Tensor:
    """Smooth noise of unit variance (classes, k, j, i) that lives in the world's 4 mm lattice."""
    origin = Geometry(geometry.shape, geometry.ijk_to_ras @ np.diag([*(CELL_MM / geometry.spacing), 1.0])).lattice_origin()
    taps = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    fields = []
    for n in range(classes):
        x = white_noise(seed, _STREAM + n, [o - 2 for o in origin], [s + 4 for s in shape])[None, None]
        for axis in range(3):
            x = F.conv3d(x, taps.reshape([-1 if a == axis else 1 for a in (-2, -1, 0, 1, 2)]))
        fields.append(x[0, 0] / float(taps.square().sum()) ** 1.5)
    return torch.stack(fields)


def _to_voxels(logits: torch.Tensor, unspecified: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The likeliest class at each unspecified voxel, logits interpolated linearly so that borders are smooth; CLASSES elsewhere."""
    result = np.full(geometry.shape, CLASSES, np.uint8)
    lines = [_line(size, step, cells) for size, step, cells in zip(geometry.shape, geometry.spacing[::-1], logits.shape[1:], strict=True)]
    table = np.array(GUESSES, np.uint8)
    rows, columns = (np.flatnonzero(unspecified.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if not len(rows):
        return result
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    along = [torch.from_numpy(_matrix(*line)).to(logits.dtype) for line in lines]
    across = along[1][window[0]], along[2][window[1]]
    for k in np.flatnonzero(unspecified.any(axis=(1, 2))):
        plane = torch.einsum("d,cdhw->chw", along[0][k], logits)
        guess = (across[0] @ plane @ across[1].T).argmax(0).numpy()
        where = unspecified[k][window]
        result[k][window][where] = table[guess[where]]
    return result


def _line(size, step, cells):
    """For each voxel of an axis: the cells before and after it, and the share of the latter."""
    at = np.clip((np.arange(size) + 0.5) * step / CELL_MM - 0.5, 0, cells - 1)
    before = np.minimum(at.astype(int), max(cells - 2, 0))
    return before, np.minimum(before + 1, cells - 1), at - before, cells


def _matrix(before, after, share, cells) -> np.ndarray:
    matrix = np.zeros((len(before), cells))
    rows = np.arange(len(before))
    matrix[rows, before] += 1 - share
    matrix[rows, after] += share
    return matrix


_warm: dict[str, CompletionUNet] = {}


def _network(card: ModelCard) -> CompletionUNet:
    if card.sha256 not in _warm:
        network = CompletionUNet(CompletionUNetConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in card.network.items()}))
        network.load_state_dict(load_weights(card))
        _warm.clear()
        _warm[card.sha256] = network.eval().requires_grad_(False)
    return _warm[card.sha256]
