"""A standard anatomy laid over a segmentation: what the interior of the body most plausibly holds where no segment says it.

The bundled sample, an averaged and deformed chest of no single person, is moved, turned and scaled, and then bent, until its structures
and its skin lie on those that were painted. What is left open is read from it: ribs along the painted lungs, a spine at the back, the
liver under the diaphragm. The seed bends it a little further, so that no two are alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from .. import RESOURCES
from ..anatomy import Structure, Tissue, Understood, ancestors, understand
from ..files import read_segmentation
from ..volume import Geometry
from .anatomy_fit import CELL_MM, fit, smooth, splines
from .noise import white_noise

SAMPLE = RESOURCES / "Samples" / "thorax.seg.nrrd"
BEYOND_MM = 25.0  # above and below its ends the anatomy goes on as it ends
CHANCE_MM = 2.5  # standard deviation of what the seed adds along each axis
_STREAM = 40  # of the noise, one an axis from here
ALONG = ("aorta", "inferior_vena_cava", "spinal_canal", "vertebrae", "trachea", "esophagus", "artery", "internal_jugular_vein_left",
         "internal_jugular_vein_right")  # beside fat and muscle, what goes on beyond the anatomy's ends
# for regions that name a tissue and no organ: which of the anatomy's structures they hold beside their own descendants
SAME_TISSUE = {"bone": Tissue.BONE, "blood": Tissue.BLOOD, "fat": Tissue.FAT, "lungs": Tissue.LUNG, "bowel_gas": Tissue.GAS}
FAMILIES = ("vertebrae", "ribs")  # of whoever paints three of one, no fourth is drawn between them
IN_LUNGS = ("lung_vessels", "lung_arteries", "lung_veins")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The standard anatomy: ``labels`` (k, j, i) uint8 on an axial grid of ``spacing`` (k, j, i) mm, and what each label means.

    ``continued`` are the same with ``beyond`` slices more at each end, in which goes on what runs along the body, and nothing else.
    """

    labels: np.ndarray
    continued: np.ndarray
    beyond: int
    spacing: np.ndarray
    understood: tuple[Understood, ...]


@cache
def standard_anatomy() -> Anatomy:
    """The bundled one, without its skin, which the generator draws wherever a body meets the air, and without the vessels in its lungs,
    which are grown for each seed."""
    sample = read_segmentation(SAMPLE)
    labels = sample.array.astype(np.uint8)
    value = {segment.name: segment.value for segment in sample.segments}
    labels[labels == value["skin"]] = value["subcutaneous_fat"]
    vessels = labels == value["lung_vessels"]
    labels[vessels] = 0
    labels = flood(labels, vessels)
    kept = [segment for segment in sample.segments if segment.name not in ("skin", "lung_vessels")]
    understood = understand(kept)
    beyond = round(BEYOND_MM / sample.geometry.spacing[2])
    ends_here = [u.segment.value for u in understood if not _runs_along(u.structure)]
    below, above = (_only_running(labels[end : end + 1], ends_here).repeat(beyond, axis=0) for end in (0, len(labels) - 1))
    return Anatomy(labels, np.concatenate([below, labels, above]), beyond, sample.geometry.spacing[::-1].copy(), understood)


def _runs_along(structure: Structure) -> bool:
    names = {structure.name, *(a.name for a in ancestors(structure))}
    return structure.tissue in (Tissue.FAT, Tissue.MUSCLE) or bool(names & set(ALONG))


def _only_running(labels, ends_here):
    where = labels > 0
    return flood(np.where(np.isin(labels, ends_here), 0, labels).astype(np.uint8), where)


@dataclass(frozen=True, eq=False)
class Placed:
    """The anatomy over a grid.

    ``at`` (3, D, H, W) is the place (k, j, i), in the anatomy's voxels, of the centre of each cell of 8 mm; the grid has one cell more on
    each side. ``told`` are the anatomy's labels that the segmentation itself speaks of, ``overlap`` the mean Dice of those.
    """

    at: torch.Tensor
    told: frozenset[int]
    overlap: float


def place(
    values: np.ndarray, understood: tuple[Understood, ...], geometry: Geometry, *, seed: int, outline: bool, check=None
) -> Placed | None:
    """Fit the standard anatomy to axial labels ``values`` (k, j, i) on ``geometry``.

    Parameters
    ----------
    understood : tuple of Understood
        What the labels mean. Segments that are not understood, and the unspecified body, say nothing about where organs lie.
    seed : int
        Chooses a smooth displacement of ``CHANCE_MM`` that is added to the fit.
    outline : bool
        Whether the outer border of all labels together is that of the body.
    check : callable, optional
        Called at every step; may raise to stop.

    Returns
    -------
    Placed or None
        None where nothing in the segmentation tells where in a body it lies.
    """
    anatomy = standard_anatomy()
    groups = _groups(understood, anatomy.understood)
    members = list(groups)
    if outline:
        everything = [u.segment.value for u in anatomy.understood]
        members.insert(0, (list(range(1, int(values.max()) + 1)), everything))
    if not members:
        return None
    target = _memberships(values, geometry.spacing[::-1], [own for own, _ in members])
    key = hashlib.sha256(target.numpy().tobytes()).digest(), repr(members), target.shape, outline
    if key not in _fitted:  # another seed or other Hounsfield values leave the fit as it is
        source = _memberships(anatomy.labels, anatomy.spacing, [theirs for _, theirs in members])
        _fitted.clear()
        _fitted[key] = fit(source, target, outline, check or (lambda: None))
    at, overlap = _fitted[key]
    at = at + _chance(seed, at.shape[1:])
    told = frozenset(value for _, theirs in groups for value in theirs) | _families(understood, anatomy)
    return Placed(at / torch.tensor(anatomy.spacing, dtype=torch.float32)[:, None, None, None] - 0.5, told, overlap)


_fitted: dict = {}


def draw(placed: Placed, wanted: np.ndarray, geometry: Geometry, *, filled: bool = True) -> np.ndarray:
    """The anatomy's labels (k, j, i) uint8 in the voxels ``wanted``; 0 elsewhere, and above and below where it ends.

    What the segmentation itself speaks of is not drawn a second time: if ``filled``, the nearest of the anatomy's other structures goes on
    there, and where the anatomy's body is narrower.
    """
    anatomy = standard_anatomy()
    result, reached = np.zeros(wanted.shape, np.uint8), np.zeros(wanted.shape, bool)
    box = _box(wanted)
    if box is None:
        return result
    size = torch.tensor(anatomy.continued.shape)
    drawn = anatomy.continued.copy()
    drawn[np.isin(drawn, list(placed.told))] = 0
    flat = torch.from_numpy(drawn.reshape(-1))
    axes = zip(wanted.shape, geometry.spacing[::-1], placed.at.shape[1:], strict=True)
    along, down, across = (torch.from_numpy(_interpolation(n, step, cells)) for n, step, cells in axes)
    down, across = down[box[1]], across[box[2]].T
    for k in range(box[0].start, box[0].stop):
        where = wanted[k][box[1:]]
        if not where.any():
            continue
        at = down @ torch.einsum("d,cdhw->chw", along[k], placed.at) @ across  # (3, H, W)
        at[0] += anatomy.beyond
        within = (at[0] > -0.5) & (at[0] < size[0] - 0.5)
        index = at.round_().long()
        beside = ((index[1:] < 0) | (index[1:] >= size[1:, None, None])).any(0)
        index = torch.minimum(index.clamp_(min=0), (size - 1)[:, None, None])
        labels = flat[(index[0] * size[1] + index[1]) * size[2] + index[2]]
        labels[beside | ~within] = 0
        result[k][box[1:]][where] = labels.numpy()[where]
        reached[k][box[1:]] = within.numpy()
    return flood(result, wanted & reached) if filled else result


def outline_of(placed: Placed, geometry: Geometry) -> np.ndarray:
    """The body (k, j, i) bool that the fitted anatomy has."""
    return draw(replace(placed, told=frozenset()), np.ones(geometry.shape, bool), geometry, filled=False) > 0


def flood(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``labels`` with its zeros in ``where`` filled from the nearest labels, layer by layer; what none reaches stays 0."""
    padded = np.pad(labels, 1)
    flat, steps = padded.reshape(-1), np.array(padded.strides) // padded.itemsize
    unfilled = np.flatnonzero(np.pad(where & (labels == 0), 1))
    while unfilled.size:
        found = np.zeros(unfilled.size, labels.dtype)
        for step in (*steps[::-1], *-steps[::-1]):  # within the slice first
            near = flat[unfilled + step]
            found = np.where(found == 0, near, found)
        if not found.any():
            break
        flat[unfilled[found > 0]] = found[found > 0]
        unfilled = unfilled[found == 0]
    return padded[1:-1, 1:-1, 1:-1]


# ------------------------------------------------------------------------------------------------------------ what both have in common


def _groups(own: tuple[Understood, ...], theirs: tuple[Understood, ...]) -> list[tuple[list[int], list[int]]]:
    """(label values of the segmentation, labels of the anatomy) of what both show.

    Each of the anatomy's structures belongs to the nearest of itself and its ancestors that was painted, else to a painted region of its
    tissue.
    """
    values: dict[str, list[int]] = {}
    for u in own:
        if u.how != "not understood" and u.structure.tissue is not Tissue.BODY:
            values.setdefault(_name(u.structure), []).append(u.segment.value)
    by_tissue = {tissue: name for name, tissue in SAME_TISSUE.items() if name in values}
    labels: dict[str, list[int]] = {}
    for u in theirs:
        names = [_name(one) for one in (u.structure, *ancestors(u.structure))]
        name = next((name for name in names if name in values), by_tissue.get(u.structure.tissue))
        if name:
            labels.setdefault(name, []).append(u.segment.value)
    return [(values[name], labels[name]) for name in labels]


def _families(own: tuple[Understood, ...], anatomy: Anatomy) -> frozenset[int]:
    """The anatomy's labels of the families of which several members were painted."""
    painted = [a.name for u in own for a in ancestors(u.structure)]
    families = {name for name in FAMILIES if painted.count(name) >= 3}
    return frozenset(u.segment.value for u in anatomy.understood if families & {a.name for a in ancestors(u.structure)})


def _name(structure: Structure) -> str:
    return "lungs" if structure.name in IN_LUNGS else structure.name


def _memberships(labels: np.ndarray, spacing, members: list[list[int]]) -> torch.Tensor:
    """Share of each cell (groups, D, H, W) that each group of label values fills."""
    samples = []
    for n, step in zip(labels.shape, spacing, strict=True):
        cells = max(2, round(n * step / CELL_MM))
        samples.append(np.clip(((np.arange(2 * cells) + 0.5) * CELL_MM / 2 / step).astype(int), 0, n - 1))
    sampled = torch.from_numpy(labels[np.ix_(*samples)].astype(np.int64))
    size = int(labels.max()) + 1
    shares = []
    for values in members:
        table = torch.zeros(size)
        table[[v for v in values if v < size]] = 1
        shares.append(F.avg_pool3d(table[sampled][None], 2)[0])
    return torch.stack(shares)


def _chance(seed: int, size) -> torch.Tensor:
    """What the seed adds (3, D, H, W) in mm: smooth noise of ``CHANCE_MM`` with a knot every 40 mm."""
    weights = splines(size, 40.0 / CELL_MM)
    knots = [white_noise(seed, _STREAM + axis, (0, 0, 0), [m.shape[1] for m in weights]) for axis in range(3)]
    return CHANCE_MM * smooth(torch.stack(knots), weights) / 0.48**1.5  # B-splines take some of the spread away


def _interpolation(n: int, step: float, cells: int) -> np.ndarray:
    """(n, cells) weights with which ``n`` voxels of ``step`` mm read cells, of which the first lies one before the grid."""
    at = np.clip((np.arange(n) + 0.5) * step / CELL_MM + 0.5, 0, cells - 1)
    before = np.minimum(at.astype(int), cells - 2)
    matrix = np.zeros((n, cells), np.float32)
    matrix[np.arange(n), before] = 1 - (at - before)
    matrix[np.arange(n), before + 1] = at - before
    return matrix


def _box(mask):
    """The slices around a mask (k, j, i); None where it is empty."""
    spans = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans) if len(spans[0]) else None
