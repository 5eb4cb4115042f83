"""Distribution: how far apart two sets of scans lie, as the Fréchet distance of features of their slices, one plane at a time.

Offline, features come from the re-segmenter's encoder: at 2 mm for anatomy, and the same filters over slabs at 1 mm for texture, pooled
over the body and reduced by a projection that was fitted on real training scans and ships with the weights. Where the user has the usual
Inception weights, :mod:`CTSynthesisLib.evaluation.inception` gives the usual features instead.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import UnusableInput
from ..modelstore import load_card, load_weights
from ..networks.segmenter import WORKING_SPACING, Segmenter, windows
from ..synthesis.mask_cgan import autocast
from ..volume import Volume
from .fidelity import class_shares, load_segmenter, on_working_grid, slabs

PLANES = ("axial", "coronal", "sagittal")
FEW = 64  # dimensions that many features are projected onto where there are few slices
DIMENSIONS = 32  # of a slice's features, after the projection
STEP = 10.0  # mm between the slices that are looked at
THICK = 5  # voxels of 1 mm in a slab: what the middle one sees of its neighbours
FINE_LEVELS = 2  # of the encoder, at 1 mm
LEAST_BODY = 0.05  # share of a slice


def slice_features(volume: Volume, plane: str, *, model: str = "segmenter") -> np.ndarray:
    """Features (n, 32) of the slices of ``volume`` (HU) that cut the body, 10 mm apart along ``plane``'s normal.

    Raises
    ------
    UnusableInput
        If the plane is unknown, or the model file holds no projection.
    """
    return all_planes(volume, model=model, planes=(plane,))[plane]


def all_planes(volume: Volume, *, model: str = "segmenter", planes=PLANES) -> dict[str, np.ndarray]:
    """:func:`slice_features` for several planes in one pass over the volume."""
    if unknown := [plane for plane in planes if plane not in PLANES]:
        raise UnusableInput(f"'{unknown[0]}' is not a plane; choose one of {', '.join(PLANES)}.")
    weights = load_weights(load_card(model))
    if "features.basis" not in weights:
        raise UnusableInput(f"The model '{model}' holds no projection for features; choose 'segmenter'.")
    mean, basis = weights["features.mean"].numpy(), weights["features.basis"].numpy()
    return {plane: (raw - mean) @ basis.T for plane, raw in raw_features(load_segmenter(model), volume, planes).items()}


def tissue_shares(volume: Volume, *, model: str = "segmenter") -> np.ndarray:
    """Shares (n, tissues) of each axial slice's body, 10 mm apart, that the re-segmenter holds for each tissue: its mean posterior."""
    hu, *_ = on_working_grid(volume)
    shares = class_shares(load_segmenter(model), hu)[:, int(STEP / WORKING_SPACING / 2) :: int(STEP / WORKING_SPACING)]
    body = shares.argmax(0) > 0
    return np.array([shares[1:, n, where].mean(1) for n, where in enumerate(body) if where.mean() > LEAST_BODY])


def fit_projection(raw: np.ndarray, dimensions: int = DIMENSIONS) -> dict[str, torch.Tensor]:
    """Mean and basis that reduce raw features (n, d) to their first principal components after scaling each to unit variance."""
    mean, spread = raw.mean(0), raw.std(0) + 1e-3
    _, _, axes = np.linalg.svd((raw - mean) / spread, full_matrices=False)
    basis = axes[:dimensions] / spread
    return {"features.mean": torch.from_numpy(mean).float(), "features.basis": torch.from_numpy(np.ascontiguousarray(basis)).float()}


@torch.inference_mode()
def raw_features(network: Segmenter, volume: Volume, planes=PLANES, step: float = STEP) -> dict[str, np.ndarray]:
    """Unprojected features (n, d) by plane, every ``step`` mm: deeper levels' means at 2 mm, the first two's means and spreads at 1 mm."""
    hu, *_ = on_working_grid(volume)
    fine, *_ = on_working_grid(volume, WORKING_SPACING / 2)
    body = class_shares(network, hu).argmax(0) > 0
    levels = _deep_levels(network, hu)
    return {plane: _of_plane(network, PLANES.index(plane), hu, fine, body, levels, step) for plane in planes}


def _deep_levels(network, hu):
    """Encoder features (C, D, H, W) of the levels below the first, joined from the slabs."""
    kept = [[] for _ in network.down]
    for _, inner, slab in slabs(hu, network.config.stride):
        with autocast("cpu"):
            found = network.encode(windows(slab))[1:]
        for level, features in enumerate(found, start=1):
            begin, end = inner.start >> level, -(-inner.stop >> level)
            kept[level - 1].append(features[0, :, begin:end].float().numpy())
    return [np.concatenate(parts, axis=1) for parts in kept]


def _of_plane(network, axis, hu, fine, body, levels, step):
    area = np.moveaxis(body, axis, 0).mean((1, 2))
    step = int(round(step / WORKING_SPACING))
    found = []
    for position in range(step // 2, hu.shape[axis], step):
        if area[position] < LEAST_BODY:
            continue
        inside = np.moveaxis(body, axis, 0)[position].astype(np.float32)
        row = []
        for level, features in enumerate(levels, start=1):
            plane = np.moveaxis(features, axis + 1, 0)[min(position >> level, features.shape[axis + 1] - 1)]  # (C, h, w)
            row.append(_weighted(plane, _pooled(inside, 2**level, plane.shape[1:]))[0])
        row += _of_slab(network, fine, inside, axis, position)
        found.append(np.concatenate(row))
    width = network.config.width
    return np.array(found).reshape(len(found), sum(width[1:]) + 2 * sum(width[:FINE_LEVELS]))


def _of_slab(network, fine, inside, axis, position):
    """Means and spreads of the first levels over a slab at half the working spacing."""
    first = min(max(2 * position + 1 - THICK // 2, 0), max(fine.shape[axis] - THICK, 0))
    slab = np.take(fine, range(first, min(first + THICK, fine.shape[axis])), axis)
    shape = [n for other, n in enumerate(fine.shape) if other != axis]
    body = np.repeat(np.repeat(inside, 2, 0), 2, 1)
    body = np.pad(body, [(0, max(n - m, 0)) for n, m in zip(shape, body.shape, strict=True)], mode="edge")[: shape[0], : shape[1]]
    row = []
    with autocast("cpu"):
        features = network.encode(windows(torch.from_numpy(np.ascontiguousarray(slab)).float()[None]), levels=FINE_LEVELS)
    for level, one in enumerate(features):
        plane = one[0].select(axis + 1, one.shape[axis + 2] // 2).float().numpy()
        row += _weighted(plane, _pooled(body, 2**level, plane.shape[1:]))
    return row


def _weighted(plane, weight):
    """Mean and spread (C,) of a plane (C, h, w) over ``weight`` (h, w)."""
    total = weight.sum() + 1e-6
    mean = (plane * weight).sum((1, 2)) / total
    return mean, np.sqrt((np.square(plane - mean[:, None, None]) * weight).sum((1, 2)) / total)


def _pooled(mask, factor, shape):
    """Share of ``mask`` in squares of ``factor`` pixels, on a grid of ``shape``."""
    padded = np.pad(mask, [(0, max(n * factor - m, 0)) for n, m in zip(shape, mask.shape, strict=True)])
    return padded[: shape[0] * factor, : shape[1] * factor].reshape(shape[0], factor, shape[1], factor).mean((1, 3))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features (n, d) and (m, d), as in Heusel et al. (2017).

    |μa - μb|² + tr(Ca + Cb - 2 (Ca Cb)^½)
    """
    difference = a.mean(0) - b.mean(0)
    ca, cb = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = _root(ca)
    # (Ca Cb)^½ has the eigenvalues of (Ca^½ Cb Ca^½)^½, which is symmetric and therefore safe to take
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    return float(max(difference @ difference + np.trace(ca) + np.trace(cb) - 2 * cross, 0))


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def reduced(a: list[np.ndarray], b: list[np.ndarray], n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two groups' features (slices, d), of which ``n`` slices each are drawn: as they are, or 64 where d is more and ``n`` not.

    Of fewer slices than features the covariance is singular, and the distance mostly bias. The projection is random but fixed,
    and scaled so that squared distances keep their mean; yet spreads shrink by it, so this is another figure than the one of all features.
    """
    d = a[0].shape[1]
    if d <= FEW or n > d:
        return a, b
    columns, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((d, FEW)))
    columns = (columns * np.sqrt(d / FEW)).astype(np.float32)
    return [one @ columns for one in a], [one @ columns for one in b]


def frechet_interval(a: list[np.ndarray], b: list[np.ndarray], *, n: int | None = None, samples: int = 200, seed: int = 0) -> dict:
    """Fréchet distance between two groups of persons, each a list of features (slices, d), with its 95 % bootstrap interval.

    ``dimensions`` says how many features it is of (:func:`reduced`): with all 2048 of Inception it is the Fréchet Inception distance (FID).

    The distance is biased upwards for few slices, so that only distances of the same ``n`` may be compared: each sample draws persons with
    replacement and from them ``n`` slices a group (by default as many as the smaller group has). ``frechet`` is the median of the
    samples drawn from the persons as they are.
    """
    rng = np.random.default_rng(seed)
    n = n or min(sum(map(len, a)), sum(map(len, b)))
    a, b = reduced(a, b, n)
    plain = [frechet(_draw(a, n, rng), _draw(b, n, rng)) for _ in range(samples // 4 + 1)]
    spread = [frechet(_draw(_again(a, rng), n, rng), _draw(_again(b, rng), n, rng)) for _ in range(samples)]
    low, high = np.percentile(spread, (2.5, 97.5))
    return {"frechet": float(np.median(plain)), "low": float(low), "high": float(high), "n": int(n), "dimensions": a[0].shape[1]}


def real_against_real(persons: list[np.ndarray], *, n: int | None = None, splits: int = 50, seed: int = 0) -> dict:
    """Fréchet distances between random halves of real persons (features (slices, d) each): median and 95 % range over the splits."""
    if len(persons) < 2:
        raise UnusableInput("Real against real needs scans of at least two persons; add cases.")
    rng = np.random.default_rng(seed)
    found = []
    persons, _ = reduced(persons, [], n or sum(map(len, persons)) // 2)
    for _ in range(splits):
        order = rng.permutation(len(persons))
        halves = [[persons[i] for i in order[half::2]] for half in (0, 1)]
        count = n or min(sum(map(len, half)) for half in halves)
        found.append(frechet(*(_draw(half, count, rng) for half in halves)))
    low, high = np.percentile(found, (2.5, 97.5))
    return {"frechet": float(np.median(found)), "low": float(low), "high": float(high), "n": int(count), "dimensions": persons[0].shape[1]}


def _again(persons, rng):
    return [persons[i] for i in rng.integers(0, len(persons), len(persons))]


def _draw(persons, n, rng):
    """``n`` slices of all persons; with replacement only where there are fewer."""
    rows = np.concatenate(persons)
    return rows[rng.choice(len(rows), n, replace=len(rows) < n)]
