"""Memorisation audit: are generated volumes copies of scans that the model was trained on?

Two similarities, each of a volume to the training scan nearest to it: local normalised cross-correlation (blocks of 32 mm, after the
best shift, the scan also mirrored), which needs the scans, and the cosine of fingerprints, which does not. What counts as a copy is
calibrated on real persons: how similar held-out scans are to training scans, and these to one another.

An average of all training scans is more like each of them than they are like one another, and no copy of any. So a second figure stands
beside: the distance to the nearest training scan over that to the second nearest (the nearest-neighbour distance ratio of privacy audits of
synthetic data), with one minus the similarity as the distance. A copy lies much nearer to one scan than to any other.

Fingerprints hold 32 numbers for every 16 mm of a scan: encoder features of the re-segmenter, pooled over twelfths of the body and whitened.
They tell a scan apart from others, and no picture can be made from so few numbers; so they ship beside the weights, where the scans cannot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import SynthesisFailed, UnusableInput
from ..files import read_volume
from ..files.beside import written_beside
from ..modelstore import load_card
from ..networks.segmenter import WORKING_SPACING, windows
from ..synthesis.mask_cgan import autocast
from ..volume import Volume
from .fidelity import load_segmenter, on_working_grid, slabs

COARSE, FINE, BLOCK = 8.0, 4.0, 8  # mm, mm, voxels of 4 mm
HU_RANGE = (-200.0, 300.0)  # within it soft tissue and bone tell persons apart; air is the same in all
NUMBERS, SLAB_MM, GRID = 32, 16.0, (3, 4)  # of a fingerprint: a slab's numbers, its thickness, the parts of the body (j, i)
BODY_HU = -500
OVERLAP = 0.6  # least share of the shorter of two stacks of slabs that must lie beside each other
SEGMENTER = "segmenter"  # the model whose features are compared
COPY_NOISE_HU, COPY_BEND_MM = 60.0, 4.0  # of copies made on purpose
MARGIN = 2.0  # standard deviations above the mean of real pairs from which on a volume counts as a copy


def audit(
    generated: list[Volume], training: list[Volume], held_out: list[Volume], *, copied: list[Volume] = (), model: str | None = None
) -> dict:
    """Similarity of ``generated`` volumes to the ``training`` scans, calibrated on ``held_out`` scans of other persons.

    Returns
    -------
    dict
        For each of ``correlation`` and ``features``: ``generated`` and ``held_out`` (similarity of each to its nearest training scan),
        ``nearest`` (which one, for each generated volume), ``threshold`` (two standard deviations above the mean of real pairs of
        persons), ``copies`` (share of the generated volumes above it) and ``membership_auc`` (how well the similarity to the nearest
        generated volume tells training scans from held-out ones; 0.5 is chance). ``ratio`` holds ``generated``, ``real`` (held out, and
        each training scan against the others), ``threshold`` (two standard deviations below the mean of ``real``) and ``copies`` (share
        of the generated volumes below it) of the distance ratio; without a third training scan, None. Of ``copied`` volumes, copies of
        training scans made on purpose, there is ``copied``, their similarity, and ``copied`` among the ratios: what should be found.

    Raises
    ------
    UnusableInput
        If there are fewer than two training scans, or nothing generated or held out.
    """
    if len(training) < 2 or not generated or not held_out:
        raise UnusableInput("The audit needs generated volumes, at least two training scans, and scans that were held out.")
    groups = (generated, training, held_out, copied)
    aligned = [[_Aligned(volume) for volume in group] for group in groups]
    raw = [[_raw_fingerprints(volume, model) for volume in group] for group in groups]
    whitening = _whitening(raw[1])
    prints = [[_whitened(one, whitening) for one in group] for group in raw]
    correlation = _judge(*aligned, _to_others(aligned[1], local_correlation), local_correlation)
    return {"correlation": correlation, "features": _judge(*prints, _prints_to_others(raw[1]), fingerprint_similarity)}


def _judge(generated, training, held_out, copied, among, similarity):
    to_training = np.array([[similarity(one, scan) for scan in training] for one in generated])
    of_copied = [[similarity(one, scan) for scan in training] for one in copied]
    of_held_out = np.array([[similarity(one, scan) for scan in training] for one in held_out])
    nearest_other = [max(one) for one in among]
    threshold = _threshold([*of_held_out.max(1), *nearest_other])
    held_to_generated = [max(similarity(one, other) for one in generated) for other in held_out]
    return {
        "generated": to_training.max(1).tolist(), "nearest": to_training.argmax(1).tolist(),
        "copied": [max(one) for one in of_copied],
        "held_out": of_held_out.max(1).tolist(), "training": nearest_other, "threshold": threshold,
        "copies": float((to_training.max(1) > threshold).mean()), "membership_auc": auc(to_training.max(0), held_to_generated),
        "ratio": _ratios(to_training, [*of_held_out, *among], of_copied) if len(training) > 2 else None,
    }  # fmt: skip


def _ratios(*groups) -> dict:
    generated, real, copied = ([distance_ratio(one) for one in group] for group in groups)
    threshold = float(np.mean(real) - MARGIN * np.std(real))
    copies = float((np.array(generated) < threshold).mean())
    return {"generated": generated, "real": real, "copied": copied, "threshold": threshold, "copies": copies}


def distance_ratio(similarities) -> float:
    """Distance to the nearest scan over that to the second nearest, of the similarities to all: 0 for a copy, 1 for what is like all."""
    nearest, second = np.sort(np.asarray(similarities, float))[::-1][:2]
    return float((1 - nearest) / max(1 - second, 1e-6))


def _to_others(scans, similarity) -> list[list[float]]:
    """Similarities of each scan to all other ones."""
    return [[similarity(a, b) for m, b in enumerate(scans) if m != n] for n, a in enumerate(scans)]


def _prints_to_others(raw) -> list[list[float]]:
    """The same for fingerprints, each scan whitened by the others: whitening pushes apart the scans that it is fitted on."""
    found = []
    for n, one in enumerate(raw):
        others = raw[:n] + raw[n + 1 :]
        whitening = _whitening(others)
        own = _whitened(one, whitening)
        found.append([fingerprint_similarity(own, _whitened(other[:1], whitening)) for other in others])
    return found


def _threshold(of_real):
    return float(np.mean(of_real) + MARGIN * np.std(of_real))


def auc(members, others) -> float:
    """Probability that a member scores above another (ties count half)."""
    members, others = np.asarray(members, float)[:, None], np.asarray(others, float)[None]
    return float((members > others).mean() + 0.5 * (members == others).mean())


def noisy(scan: Volume, seed: int) -> Volume:
    """A copy on purpose, which the audit should find: with white noise of 60 HU."""
    noise = np.random.default_rng(seed).normal(0, COPY_NOISE_HU, scan.array.shape)
    return Volume((scan.array + noise).clip(-1024, 3071).astype(np.int16), scan.geometry)


def warped(scan: Volume, seed: int) -> Volume:
    """Another one, smoothly bent: by 4 mm (standard deviation along each axis) with a knot every 64 mm."""
    steps, shape = scan.geometry.spacing[::-1], scan.array.shape
    knots = [max(4, round(n * step / 64)) for n, step in zip(shape, steps, strict=True)]
    bend = torch.randn(1, 3, *knots, generator=torch.Generator().manual_seed(seed)) * COPY_BEND_MM
    bend = F.interpolate(bend, size=shape, mode="trilinear", align_corners=True)[0]
    axes = [torch.linspace(-1, 1, n) for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    grid = torch.stack([grid[a] + 2 * bend[a] / (shape[a] * steps[a]) for a in (2, 1, 0)], -1)[None]
    hu = F.grid_sample(torch.from_numpy(scan.array).float()[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
    return Volume(hu.round().short().numpy(), scan.geometry)


class _Aligned:
    """A volume as the correlation needs it: clipped HU at 8 mm for the shift, at 4 mm for the blocks, and where the body is."""

    def __init__(self, volume: Volume):
        self.coarse, self.fine = (np.clip(on_working_grid(volume, spacing)[0], *HU_RANGE).astype(np.float32) for spacing in (COARSE, FINE))

    def mirrored(self):
        other = object.__new__(_Aligned)
        other.coarse, other.fine = (np.ascontiguousarray(array[:, :, ::-1]) for array in (self.coarse, self.fine))
        return other


def local_correlation(a: _Aligned, b: _Aligned) -> float:
    """Mean normalised cross-correlation of 32 mm blocks where both show tissue, at the best shift, ``b`` as it is or mirrored."""
    return max(_block_correlation(a.fine, other.fine, _best_shift(a.coarse, other.coarse)) for other in (b, b.mirrored()))


def _best_shift(a, b):
    """Shift (k, j, i) in voxels of 4 mm that brings ``b`` onto ``a``: the peak of their cross-correlation, by Fourier transform."""
    shape = [m + n for m, n in zip(a.shape, b.shape, strict=True)]
    axes = (0, 1, 2)
    # both zero outside, so that tissue must meet tissue
    spectrum = np.fft.rfftn(a - HU_RANGE[0], shape, axes) * np.conj(np.fft.rfftn(b - HU_RANGE[0], shape, axes))
    peak = np.unravel_index(np.argmax(np.fft.irfftn(spectrum, shape, axes)), shape)
    ratio = int(COARSE / FINE)
    return tuple(ratio * (int(p) if p < m else int(p) - n) for p, m, n in zip(peak, a.shape, shape, strict=True))


def _block_correlation(a, b, shift):
    best = -1.0
    for fine in np.ndindex(3, 3, 3):  # one voxel to either side of the coarse peak
        parts = []
        for array, sign in ((a, 1), (b, -1)):
            window = []
            for axis in range(3):
                move = shift[axis] + fine[axis] - 1
                length = min(a.shape[axis], b.shape[axis] + move) - max(move, 0)
                window.append(slice(max(sign * move, 0), max(sign * move, 0) + max(length, 0)))
            parts.append(array[tuple(window)])
        best = max(best, _blocks(*parts))
    return best


def _blocks(a, b):
    count = [n // BLOCK for n in a.shape]
    if min(count) == 0:
        return -1.0
    x, y = (
        array[: count[0] * BLOCK, : count[1] * BLOCK, : count[2] * BLOCK]
        .reshape(count[0], BLOCK, count[1], BLOCK, count[2], BLOCK).transpose(0, 2, 4, 1, 3, 5).reshape(-1, BLOCK**3)
        for array in (a, b)
    )  # fmt: skip
    tissue = (x > HU_RANGE[0] + 50).mean(1) + (y > HU_RANGE[0] + 50).mean(1) > 0.5
    if tissue.sum() < 4:
        return -1.0
    x, y = x[tissue] - x[tissue].mean(1, keepdims=True), y[tissue] - y[tissue].mean(1, keepdims=True)
    norm = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return float(((x * y).sum(1) / np.maximum(norm, 1e-3)).mean())


def _raw_fingerprints(volume: Volume, segmenter: str | None) -> list[np.ndarray]:
    """Unwhitened numbers (slabs, d), from foot to head, of slabs that begin at the volume's end and 8 mm above.

    Two cuts through one body are alike only where their slabs lie alike; so one is compared with both of the other. In-plane the body's
    box decides where the network's grid lies.
    """
    network = load_segmenter(segmenter or SEGMENTER)
    hu, *_ = on_working_grid(volume)
    rows, columns = ((hu > BODY_HU).any(0).mean(axis) > 0.05 for axis in (1, 0))
    hu = hu[:, rows][:, :, columns]
    phases = (0, int(SLAB_MM / WORKING_SPACING / 2)) if hu.size else ()
    found = [_raw_fingerprint(network, hu[phase:]) for phase in phases if phase < len(hu)]
    if not any(map(len, found)):
        raise UnusableInput("The volume shows no body, so it has no fingerprint; check that its values are Hounsfield units.")
    return [one for one in found if len(one)]


@torch.inference_mode()
def _raw_fingerprint(network, hu: np.ndarray) -> np.ndarray:
    """The deepest features (16 mm) of the working grid, pooled over twelfths of the body's box: (slabs, d)."""
    stride = network.config.stride
    parts = []
    for _, inner, slab in slabs(hu, stride):
        with autocast("cpu"):
            deepest = network.encode(windows(slab))[-1][0].float().numpy()
        parts.append(deepest[:, inner.start // stride : -(-inner.stop // stride)])
    features = np.concatenate(parts, axis=1)  # (C, slabs, h, w)
    body = hu > BODY_HU
    rows = []
    for n in range(features.shape[1]):
        part = body[int(n * SLAB_MM / WORKING_SPACING) : int((n + 1) * SLAB_MM / WORKING_SPACING)].any(0)
        if part.mean() < 0.05:
            continue
        j, i = (np.nonzero(part.any(axis))[0] // stride for axis in (1, 0))
        box = features[:, n, j[0] : j[-1] + 1, i[0] : i[-1] + 1]
        cells = [cell.mean((1, 2)) for row in np.array_split(box, GRID[0], 1) for cell in np.array_split(row, GRID[1], 2) if cell.size]
        if len(cells) == GRID[0] * GRID[1]:
            rows.append(np.concatenate(cells))
    return np.array(rows)


def _whitened(one, whitening):
    mean, basis = whitening
    return [(part - mean) @ basis.T for part in one]


def _whitening(scans: list[list[np.ndarray]]):
    """Mean and basis that bring slabs of the training scans to unit variance along their first principal components."""
    rows = np.concatenate([one[0] for one in scans])
    mean = rows.mean(0)
    _, spread, axes = np.linalg.svd(rows - mean, full_matrices=False)
    count = min(NUMBERS, max(len(rows) // 4, 2))  # of few slabs, the last components are chance
    spread = np.maximum(spread[:count], 1e-3 * spread[0]) / np.sqrt(len(rows))
    return mean, axes[:count] / spread[:, None]


def fingerprint_similarity(a: list[np.ndarray], b: np.ndarray | list[np.ndarray]) -> float:
    """Mean cosine of the slabs (n, 32) that lie beside each other, at the best shift along the body; 1 is the same scan.

    ``a`` is a volume's fingerprint from several beginnings; of ``b`` the first is taken.
    """
    b = b[0] if isinstance(b, list) else b
    return max(_slab_similarity(one, b) for one in a)


def _slab_similarity(a, b):
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6) for x in (a, b))
    cosine = a.astype(np.float64) @ b.T.astype(np.float64)
    least = max(int(np.ceil(OVERLAP * min(cosine.shape))), 1)
    diagonals = (np.diagonal(cosine, shift) for shift in range(-len(a) + 1, len(b)))
    return float(max(diagonal.mean() for diagonal in diagonals if len(diagonal) >= least))


def fingerprints_path(model: str) -> Path:
    """Where the fingerprints of a model's training scans lie: beside its weights."""
    return Path(load_card(model).path).with_suffix(".fingerprints.npz")


def write_fingerprints(data, target, *, leave_out: tuple[str, ...] = (), segmenter: str | None = None) -> float:
    """Write the fingerprints of every case under ``data`` but those named in ``leave_out`` to ``target``; returns the suggested limit.

    The limit is two standard deviations above the mean similarity of each scan to its nearest other.
    """
    folders = [path.parent for path in sorted(Path(data).glob("*/ct.nrrd")) if path.parent.name not in leave_out]
    if len(folders) < 2:
        raise UnusableInput(f"Fingerprints need at least two cases, and {data} holds {len(folders)}; each is a folder with a ct.nrrd.")
    raw = [_raw_fingerprints(read_volume(folder / "ct.nrrd"), segmenter) for folder in folders]
    mean, basis = _whitening(raw)
    scans = [(one[0] - mean) @ basis.T for one in raw]
    limit = _threshold([max(one) for one in _prints_to_others(raw)])
    with written_beside(Path(target)) as part, open(part, "wb") as file:
        np.savez_compressed(file, mean=mean.astype(np.float16), basis=basis.astype(np.float16), limit=limit,
                            segmenter=load_card(segmenter or SEGMENTER).sha256, rows=np.concatenate(scans).astype(np.float16),
                            lengths=[len(one) for one in scans])  # fmt: skip
    return limit


def check_limit(limit: float, model: str) -> None:
    """Raise UnusableInput, before any work, if ``limit`` is no similarity or ``model`` has no fingerprints."""
    if not 0 < limit <= 1:
        raise UnusableInput(f"'--reject-similar {limit:g}' is not a similarity; give a number above 0 and at most 1, for example 0.75.")
    _fingerprints(model)


def refuse_similar(volume: Volume, model: str, limit: float) -> None:
    """Raise SynthesisFailed if ``volume`` is at least ``limit`` similar to a scan that ``model`` was trained on."""
    similarity, _ = similarity_to_training(volume, model)
    if similarity >= limit:
        raise SynthesisFailed(
            f"Nothing was written because the CT resembles a training scan (similarity {similarity:.2f}, limit {limit:g}); "
            "try another --seed, or another segmentation if it is that scan's own."
        )


def similarity_to_training(volume: Volume, model: str, *, segmenter: str | None = None) -> tuple[float, float]:
    """How similar ``volume`` is to the nearest scan that ``model`` was trained on (1 is the same), and the limit suggested for it.

    Raises
    ------
    UnusableInput
        If no fingerprints lie beside the model's weights, or they were made with another re-segmenter.
    """
    mean, basis, scans, limit = _fingerprints(model, segmenter)
    own = _whitened(_raw_fingerprints(volume, segmenter), (mean, basis))
    return max(fingerprint_similarity(own, scan) for scan in scans), limit


def _fingerprints(model, segmenter=None):
    path = fingerprints_path(model)
    try:
        with np.load(path, allow_pickle=False) as kept:
            mean, basis, rows, lengths, limit = (kept[name].astype(float) for name in ("mean", "basis", "rows", "lengths", "limit"))
            made_with = str(kept["segmenter"])
    except (OSError, ValueError, KeyError) as error:
        raise UnusableInput(f"No fingerprints of training scans lie beside the model '{model}' ({path}), so nothing can be compared; "
                            "choose a model that ships, or leave out --reject-similar.") from error  # fmt: skip
    if made_with != load_card(segmenter or SEGMENTER).sha256:
        raise UnusableInput(f"The fingerprints {path} were made with another re-segmenter; make them anew, or leave out --reject-similar.")
    return mean, basis, np.split(rows, np.cumsum(lengths.astype(int))[:-1]), float(limit)
