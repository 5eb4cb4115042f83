"""The recipe of the re-segmenter: ``ctsynthesis train segmenter --data DIR -o DIR``.

It learns the regions of :func:`CTSynthesisLib.regions.segment_regions` from real scans. Those come from thresholds; so that the network
learns anatomy rather than the thresholds, each sample's intensities are changed (gain, offset, shading, blur, noise) while its labels stay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UnusableInput
from ..evaluation.distribution import fit_projection, raw_features
from ..files import read_volume
from ..modelstore import ModelCard, save_model
from ..networks.segmenter import WORKING_SPACING, Segmenter, SegmenterConfig, windows
from ..regions import segment_regions
from ..synthesis.mask_cgan import autocast
from ..volume import AIR_HU, Volume, reorder, resample
from .kept import Kept, weights_of
from .loop import load_weights, ready, run

PROJECTION_STEP = 40.0  # mm between the slices that the features' projection is fitted on


@dataclass(frozen=True)
class Augmentation:
    """How far a sample may differ from the scan; HU, or as said."""

    rotation: float = 10.0  # degrees about the body's axis; a third of it about the others
    scale: float = 0.15  # share of the size
    elastic: float = 4.0  # mm, of displacements that are smooth over 40 mm
    gain: float = 0.12  # share of the contrast
    offset: float = 40.0
    shading: float = 30.0  # slow changes over the body
    blur: float = 1.2  # voxels
    noise: float = 60.0


@dataclass(frozen=True)
class SegmenterRecipe:
    network: SegmenterConfig = field(default_factory=SegmenterConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    patch: tuple[int, int, int] = (40, 72, 72)  # voxels (k, j, i)
    batch: int = 2
    rate: float = 2e-3
    seed: int = 0
    iterations: int = 1400


@dataclass(frozen=True)
class Scan:
    name: str
    hu: torch.Tensor  # (k, j, i) int16 on the working grid, axial
    labels: torch.Tensor  # the same, uint8


def train(data, out, *, recipe: SegmenterRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), on_log=print) -> int:  # fmt: skip
    """Train on every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    Checkpoints and ``log.jsonl`` go to ``out``, scans on the working grid to ``out/scans``, in the end the model file
    ``segmenter.safetensors`` with its card.

    Raises
    ------
    UnusableInput
        If no folder in ``data`` holds a ``ct.nrrd``.
    """
    recipe = recipe or SegmenterRecipe()
    device = ready(out, resume, device)
    torch.manual_seed(recipe.seed)
    scans = load_scans(data, Path(out) / "scans", leave_out=leave_out)
    last = iterations or recipe.iterations
    done = run(_Training(recipe, device, last), Patches(scans, recipe), out, iterations=last, minutes=minutes, resume=resume,
               log_every=20, checkpoint_every=200, on_log=on_log)  # fmt: skip
    export(out, out, recipe=recipe, data=data, leave_out=leave_out, title="Re-segmenter trained on own data", version=str(done),
           description=f"{done} iterations on {len(scans)} cases.", training_data=[scan.name for scan in scans],
           command=f"ctsynthesis train segmenter --data {data} --iterations {done}")  # fmt: skip
    return done


def export(out, folder, *, data, leave_out: tuple[str, ...] = (), recipe: SegmenterRecipe | None = None, **card) -> ModelCard:
    """Write the latest checkpoint in ``out`` as a model file with its card into ``folder``.

    With it goes the projection of :mod:`CTSynthesisLib.evaluation.distribution`, fitted on the cases under ``data``.
    """
    recipe = recipe or SegmenterRecipe()
    weights = weights_of(load_weights(out), "network")
    network = Segmenter(recipe.network)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    folders = [path.parent for path in sorted(Path(data).glob("*/ct.nrrd")) if path.parent.name not in leave_out]
    rows = [one for case in folders for one in raw_features(network, read_volume(case / "ct.nrrd"), step=PROJECTION_STEP).values()]
    weights |= fit_projection(np.concatenate([one for one in rows if len(one)]))
    return save_model(folder, weights, name="segmenter", kind="segmenter", network=asdict(recipe.network), hu_map={}, **card)


def load_scans(data, cache: Path, *, leave_out: tuple[str, ...] = ()) -> list[Scan]:
    """Every case under ``data`` on the working grid, prepared once and kept in ``cache``."""
    folders = [path.parent for path in sorted(Path(data).glob("*/ct.nrrd")) if path.parent.name not in leave_out]
    if not folders:
        raise UnusableInput(f"No case was found in {data}: each case is a folder with a ct.nrrd.")
    cache.mkdir(parents=True, exist_ok=True)
    scans = []
    for folder in folders:
        kept = cache / f"{folder.name}.npz"
        if not kept.exists():
            volume = read_volume(folder / "ct.nrrd")
            prepare(volume, segment_regions(volume).array, kept)
        with np.load(kept) as arrays:
            scans.append(Scan(folder.name, torch.from_numpy(arrays["hu"]), torch.from_numpy(arrays["labels"])))
    return scans


def prepare(volume: Volume, labels: np.ndarray, kept: Path) -> None:
    """Write HU and region ``labels`` of a scan on the working grid; each voxel gets the region that fills most of it."""
    axes, flips = volume.geometry.anatomical_axes
    source = volume.geometry.reordered(axes, flips)
    target = source.with_spacing([WORKING_SPACING] * 3)
    hu = resample(reorder(volume.array, axes, flips).astype(np.int16), source, target, outside=AIR_HU)
    labels = reorder(labels, axes, flips)
    best, result = np.zeros(target.shape, np.float32), np.zeros(target.shape, np.uint8)
    for value in np.unique(labels):
        share = resample((labels == value).astype(np.float32), source, target)
        better = share > best
        result[better], best[better] = value, share[better]
    part = kept.with_name(kept.name + ".part.npz")
    np.savez_compressed(part, hu=hu, labels=result)
    part.replace(kept)


class Patches:
    """``patches(n)`` is batch n: HU and labels (B, D, H, W), a function of n alone."""

    def __init__(self, scans: list[Scan], recipe: SegmenterRecipe):
        self.scans, self.recipe = scans, recipe
        voxels = np.array([scan.hu.numel() for scan in scans], float) ** 0.5
        self.share = voxels / voxels.sum()
        self.places = [[(scan.labels.flatten() == value).nonzero()[:, 0][::37] for value in scan.labels.unique()] for scan in scans]

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.recipe.seed, n))
        samples = [self._sample(rng) for _ in range(self.recipe.batch)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _sample(self, rng):
        number = rng.choice(len(self.scans), p=self.share)
        scan, places = self.scans[number], self.places[number]
        if rng.random() < 0.6:  # about a voxel of a class, each class as often as the next
            choice = [place for place in places if len(place)]
            place = choice[rng.integers(len(choice))]
            centre = np.array(np.unravel_index(int(place[rng.integers(len(place))]), scan.hu.shape), float)
        else:
            centre = rng.uniform(0, scan.hu.shape)
        grid = _grid(centre, scan.hu.shape, self.recipe.patch, self.recipe.augmentation, rng)
        hu = _read(scan.hu, grid, "bilinear", AIR_HU)
        return {"hu": changed(hu, self.recipe.augmentation, rng), "labels": _read(scan.labels, grid, "nearest", 0).round().long()}


def _grid(centre, shape, patch, a: Augmentation, rng):
    """Where the patch reads: (D, H, W, 3) in grid_sample's coordinates (i, j, k)."""
    half, middle = np.array(patch) / 2, np.array(shape) / 2
    centre = np.clip(centre + rng.uniform(-0.3, 0.3, 3) * patch, np.minimum(half, middle), np.maximum(shape - half, middle))
    k, j, i = np.deg2rad(rng.uniform(-a.rotation, a.rotation, 3)) * (1, 1 / 3, 1 / 3)
    turn_k = np.array([[1, 0, 0], [0, np.cos(k), -np.sin(k)], [0, np.sin(k), np.cos(k)]])
    turn_j = np.array([[np.cos(j), 0, -np.sin(j)], [0, 1, 0], [np.sin(j), 0, np.cos(j)]])
    turn_i = np.array([[np.cos(i), -np.sin(i), 0], [np.sin(i), np.cos(i), 0], [0, 0, 1]])
    mirror = np.diag([1, 1, rng.choice([-1, 1])])  # left and right
    matrix = torch.from_numpy(turn_k @ turn_j @ turn_i @ mirror * rng.uniform(1 - a.scale, 1 + a.scale)).float()
    offsets = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in patch), indexing="ij"), dim=-1)  # (D, H, W, 3)
    coarse = torch.from_numpy(rng.normal(size=(1, 3, *(max(n // 20, 2) + 1 for n in patch)))).float() * (a.elastic / WORKING_SPACING / 2)
    smooth = F.interpolate(coarse, size=patch, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    position = (offsets + smooth) @ matrix.T + torch.from_numpy(centre).float()
    return ((2 * position + 1) / torch.tensor(shape) - 1).flip(-1)


def _read(volume, grid, mode, outside):
    image = volume[None, None].float() - outside
    return F.grid_sample(image, grid[None], mode=mode, padding_mode="zeros", align_corners=False)[0, 0] + outside


def changed(hu, a: Augmentation, rng):
    """``hu`` (D, H, W) with another scanner's contrast, shading, sharpness and noise."""
    if rng.random() < 0.6:
        sigma = float(rng.uniform(0.3, a.blur))
        taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
        taps = taps / taps.sum()
        hu = hu[None, None]
        for axis in range(3):
            shape = [1, 1, 1, 1, 1]
            shape[2 + axis] = 7
            pad = [0] * 6
            pad[4 - 2 * axis] = pad[5 - 2 * axis] = 3
            hu = F.conv3d(F.pad(hu, pad, mode="replicate"), taps.reshape(shape))
        hu = hu[0, 0]
    gain, offset = 1 + rng.uniform(-a.gain, a.gain), rng.uniform(-a.offset, a.offset)
    hu = 40 + gain * (hu - 40) + offset * torch.where(hu < -200, 2.0, 1.0)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 2, 3, 3))).float() * rng.uniform(0, a.shading)
    hu = hu + F.interpolate(coarse, size=hu.shape, mode="trilinear", align_corners=True)[0, 0]
    noise = torch.from_numpy(rng.standard_normal(hu.shape, dtype=np.float32))
    if rng.random() < 0.5:  # grain coarser than a voxel
        noise = F.avg_pool3d(noise[None, None], 3, stride=1, padding=1)[0, 0] * 5.2
    return hu + noise * float(rng.uniform(0, a.noise) * rng.random())


class _Training(Kept):
    """Cross-entropy plus soft Dice; AdamW on a cosine."""

    KEPT = ("network", "optimizer", "done")

    def __init__(self, recipe: SegmenterRecipe, device: str, iterations: int):
        self.network = Segmenter(recipe.network).to(device, memory_format=torch.channels_last_3d).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.rate, weight_decay=1e-4)
        self.rate, self.device, self.iterations, self.done = recipe.rate, device, iterations, 0

    def step(self, batch) -> dict[str, float]:
        warm = min(50, self.iterations / 10)
        rate = self.rate * min(1, (self.done + 1) / warm) * (0.01 + 0.99 * np.cos(np.pi / 2 * min(self.done / self.iterations, 1)) ** 2)
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)
        labels = batch["labels"].to(self.device)
        with autocast(self.device):
            scores = self.network(windows(batch["hu"].to(self.device)))
        entropy = F.cross_entropy(scores, labels, _rarity(labels, scores.shape[1]))
        dice = soft_dice(scores, labels)
        self.optimizer.zero_grad(set_to_none=True)
        (entropy + 1 - dice).backward()
        self.optimizer.step()
        self.done += 1
        return {"cross_entropy": entropy.item(), "dice": dice.item()}


def _rarity(labels, classes):
    """Weight of each class: from 1 for one that fills the batch to 8 for a rare one, which would otherwise be learned last."""
    share = torch.bincount(labels.flatten(), minlength=classes) / labels.numel()
    return (0.1 / (share + 1e-4)).sqrt().clamp(1, 8)


def soft_dice(scores, labels):
    """Mean over the classes that are present of 2·|p·t| / (|p| + |t|); ``scores`` (B, C, …), ``labels`` (B, …)."""
    share = scores.softmax(1).transpose(0, 1).flatten(1)  # (C, voxels)
    target = F.one_hot(labels.flatten(), len(share)).T.to(share.dtype)
    dice = 2 * (share * target).sum(1) / (share.sum(1) + target.sum(1) + 1)
    present = target.sum(1) > 50
    return dice[present].mean()
