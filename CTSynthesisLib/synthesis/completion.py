"""Filling in what a segmentation leaves open: tissues in the unspecified interior of the body.

The generator draws what it is told; told "body", it can only paint grey. So a small network that sees the whole body first guesses a tissue
for every unspecified voxel, on a grid of 4 mm: lungs first, then bone given the lungs, then what is left given both. Chance has a say where
the network is in doubt, so the seed chooses one plausible anatomy. What the user painted is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, load_into
from ..networks.completion_unet import CompletionUNet, CompletionUNetConfig
from ..volume import Geometry
from .condition import AIR, BLOOD, BODY, BONE, CLASSES, FAT, GAS, LUNG, SOFT
from .noise import white_noise

CELL_MM = 4.0
FINE_MM = 2.0  # labels are sampled on this grid before they are averaged to cells
GUESSES = (GAS, LUNG, FAT, SOFT, BLOOD, BONE)  # the tissues of the network's classes
# How far chance may overrule the likelier tissue, in units of a logit: with less, fat is lost to the commoner muscle; with more, the two
# lie in blotches.
CHANCE_OF_LUNG, CHANCE_OF_BONE, CHANCE = 1.0, 0.5, 0.8
NEVER = -100.0
PLACE = 12  # of the network's inputs: from one side of the body to the other
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
    """What the network sees (28, D, H, W) of ``tissue`` classes and their expected HU on the fine grid, (2D, 2H, 2W).

    The share of each class in a cell, the HU of soft tissue and blood, whether blood is enhanced, and where in the body the cell lies: its
    depth below the skin, and its place between front and back and between the sides of its slice, each also bent into waves and decays
    from which a spine or a layer of fat is one step. Without them a network of this size had not found the spine in 600 iterations.
    """
    planes = torch.stack([tissue == n for n in range(CLASSES)]).float()
    level = ((hu - 40) / 150).clamp(-2, 2) * torch.isin(tissue, torch.tensor([SOFT, BLOOD]))
    cells = F.avg_pool3d(torch.cat([planes, level[None]]), 2)
    body = cells[AIR] < 0.5
    depth, *places = _depth(body), _place(body, 1), _place(body, 2)
    bent = [(-rate * depth).exp() for rate in (3, 8, 20)]
    bent += [wave(torch.pi * times * place) for times in (1, 2, 4) for place in places for wave in (torch.sin, torch.cos)]
    return torch.cat([cells, torch.full_like(cells[:1], contrast), torch.stack([depth, *places, *bent])])


def _depth(body: torch.Tensor) -> torch.Tensor:
    """Distance to the skin in units of 100 mm, within each slice: above and below a scan the body goes on."""
    slices = [sitk.GetImageFromArray(one.astype(np.uint8)) for one in body.numpy()]
    depth = [sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(one, squaredDistance=False, insideIsPositive=True)) for one in slices]
    return torch.from_numpy(np.stack(depth)).clamp(min=0) * (CELL_MM / 100)


def _place(body: torch.Tensor, axis: int) -> torch.Tensor:
    """-1 to 1 from one end of each slice's body to the other along ``axis``."""
    at = torch.arange(body.shape[axis], dtype=torch.float32)
    covered = body.any(dim=3 - axis)  # (D, size)
    first = torch.where(covered, at, torch.inf).amin(1).nan_to_num(posinf=0.0)
    last = torch.where(covered, at, -torch.inf).amax(1).nan_to_num(neginf=1.0)
    place = (2 * (at - first[:, None]) / (last - first)[:, None].clamp(min=1) - 1).clamp(-1, 1)
    return place.unsqueeze(3 - axis).expand(body.shape)


def padded(x: torch.Tensor, stride: int) -> torch.Tensor:
    """``x`` (…, D, H, W) continued to multiples of ``stride`` by its outermost cells."""
    pad = [n for size in reversed(x.shape[-3:]) for n in (0, -size % stride)]
    return F.pad(x[None], pad, mode="replicate")[0]


@torch.inference_mode()
def complete(
    card: ModelCard, values: np.ndarray, tissue: np.ndarray, hu: np.ndarray, geometry: Geometry, *, seed: int, contrast: bool,
    bones_are_painted: bool = False,
) -> np.ndarray:  # fmt: skip
    """Tissue classes (k, j, i) uint8 for the voxels of class BODY; :data:`CLASSES` wherever the segmentation has spoken.

    Parameters
    ----------
    values : (k, j, i) labels on an axial grid; ``tissue`` and ``hu`` are tables over them, as in :class:`Condition`.
    contrast : bool
        Whether blood is enhanced; only then can it be told from soft tissue.
    bones_are_painted : bool
        Whether the segmentation shows the bones, so that no more are to be guessed.
    """
    cells = Cells.over(geometry)
    sampled = cells.read(values)
    x = inputs(torch.from_numpy(tissue[sampled]), torch.from_numpy(hu[sampled].astype(np.float32)), float(contrast))
    chance = (_chance(seed, n, geometry, cells.count, n == GUESSES.index(LUNG)) for n in range(len(GUESSES)))
    logits = _decide(_network(card), x, bones_are_painted, *chance)
    return _to_voxels(logits, (tissue == BODY)[values], geometry)


def _decide(network: CompletionUNet, x: torch.Tensor, bones_are_painted: bool, *chance: torch.Tensor) -> torch.Tensor:
    """One field a class (classes, D, H, W), the greatest of which tells the tissue of a cell.

    All classes at once, in each cell by itself, gave lungs like a Swiss cheese where a body's outline alone was known. So lungs and then
    bone are decided against all else, and shown to the network before it is asked for the rest.
    """
    size = x.shape[1:]
    fields = torch.empty(len(GUESSES), *size)
    rest = list(range(len(GUESSES)))
    for kind, weight in ((LUNG, CHANCE_OF_LUNG), (BONE, CHANCE_OF_BONE)):
        n = GUESSES.index(kind)
        rest.remove(n)
        logits = _asked(network, x)
        fields[n] = logits[n] - logits[rest].logsumexp(0) + weight * chance[n]
        if kind == LUNG:
            for half in (x[PLACE] < 0, x[PLACE] >= 0):  # where a lung has been painted there is no second one
                if (x[LUNG] * half).sum() > 0.01 * ((1 - x[AIR]) * half).sum():
                    fields[n][half] = NEVER
        elif bones_are_painted:
            fields[n] = NEVER
        x = x.clone()
        shown = (fields[n] > 0) * x[BODY]
        x[kind] += shown
        x[BODY] -= shown
    logits = _asked(network, x)[rest] + CHANCE * torch.stack([chance[n] for n in rest])
    fields[rest] = logits - logits.amax(0)  # at most 0: what has been decided before comes first
    return fields


def _asked(network: CompletionUNet, x: torch.Tensor) -> torch.Tensor:
    depth, height, width = x.shape[1:]
    return network(padded(x, network.config.stride)[None])[0, :, :depth, :height, :width]


def _chance(seed: int, stream: int, geometry: Geometry, shape, wide: bool) -> torch.Tensor:
    """Smooth noise of unit variance (k, j, i) that lives in the world's 4 mm lattice; its standard deviation is 9 mm, or 18 if ``wide``."""
    origin = Geometry(geometry.shape, geometry.ijk_to_ras @ np.diag([*(CELL_MM / geometry.spacing), 1.0])).lattice_origin()
    taps = torch.tensor([1.0])
    for gap in (1, 2, 4) if wide else (1, 2):
        spread = torch.zeros(4 * gap + 1)
        spread[::gap] = torch.tensor([1.0, 4, 6, 4, 1]) / 16
        taps = F.conv1d(F.pad(taps[None, None], (4 * gap, 4 * gap)), spread[None, None])[0, 0]
    reach = len(taps) // 2
    x = white_noise(seed, _STREAM + stream, [o - reach for o in origin], [s + 2 * reach for s in shape])[None, None]
    for axis in range(3):
        x = F.conv3d(x, taps.reshape([-1 if a == axis else 1 for a in (-2, -1, 0, 1, 2)]))
    return x[0, 0] / float(taps.square().sum()) ** 1.5


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
        network = CompletionUNet(CompletionUNetConfig(**card.settings))
        load_into(network, card)
        _warm.clear()
        _warm[card.sha256] = network.eval().requires_grad_(False)
    return _warm[card.sha256]
