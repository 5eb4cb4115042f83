"""Training samples for the default model: slabs of real CT, each with a condition of random granularity.

A case is a folder with ``ct.nrrd`` and, where there are masks, ``segmentation.nrrd`` and ``labels.json``. What the masks leave open is
filled by :func:`CTSynthesisLib.regions.segment_regions`. Every sample then merges some structures into their coarser parents, splits
soft tissue into make-believe organs, and hides some Hounsfield values, so that the network has seen every vocabulary (DESIGN, decision 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..anatomy import understand
from ..errors import UnusableInput
from ..files import read_segmentation, read_volume
from ..regions import REGIONS, segment_regions
from ..synthesis.condition import AIR, BLOOD, BODY, BODY_HU, BONE, CLASS_OF_TISSUE, FAT, GAS, LUNG, SOFT, Scan, planes
from ..synthesis.hu_map import HUMap
from ..synthesis.noise import CELL, lattice_noise
from ..volume import to_sitk

FIRST_ORGAN = 20  # label values below it are regions, from it on the case's own segments
FIRST_PART = 200  # make-believe organs
OUTSIDE_HU = -1000.0


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; probabilities unless a unit is given."""

    slices: int = 6
    size: int = 160  # pixels, a multiple of the generator's stride
    resampled: float = 0.5  # rotated and scaled; the rest are plain crops that keep the scanner's own noise
    rotation: float = 12.0  # degrees, to either side
    coarsest: float = 2.2  # in-plane spacing over the scan's
    thicker: float = 0.25  # neighbouring slices averaged in pairs
    split_soft_tissue: float = 0.6
    known_hu: float = 0.7  # per structure
    known_scan: float = 0.7  # noise and sharpness
    merge: tuple[tuple[str, str, float], ...] = (
        ("lung_vessels", "lungs", 0.5), ("airway", "lungs", 0.2), ("bowel_gas", "body", 0.3), ("blood", "soft_tissue", 0.25),
        ("fat", "body", 0.15), ("bone", "body", 0.1), ("soft_tissue", "body", 0.3), ("lungs", "body", 0.01),
    )  # fmt: skip
    body_only: float = 0.02


@dataclass(frozen=True)
class Case:
    name: str
    hu: np.ndarray  # (k, j, i) int16
    smooth: np.ndarray  # the same, smoothed by 3 mm
    values: np.ndarray  # (k, j, i) uint8: regions, and the case's own segments over them
    tissue: dict[int, int]  # class of each value
    spacing: tuple[float, float, float]  # mm


def load_cases(data: str | Path, cache: str | Path, *, leave_out: tuple[str, ...] = (), report=print) -> list[Case]:
    """Every case under ``data``, prepared once and kept in ``cache``.

    Raises
    ------
    UnusableInput
        If no folder in ``data`` holds a ``ct.nrrd``.
    """
    folders = sorted(path.parent for path in Path(data).glob("*/ct.nrrd"))
    if not folders:
        raise UnusableInput(f"No case was found in {data}: each case is a folder with a ct.nrrd.")
    Path(cache).mkdir(parents=True, exist_ok=True)
    return [_load(folder, Path(cache), report) for folder in folders if folder.name not in leave_out]


def _load(folder: Path, cache: Path, report) -> Case:
    kept = cache / f"{folder.name}.npz"
    if not kept.exists():
        report(f"preparing {folder.name}")
        _prepare(folder, kept)
    with np.load(kept) as data:
        tissue = {int(value): int(kind) for value, kind in data["tissue"]}
        return Case(folder.name, data["hu"], data["smooth"], data["values"], tissue, tuple(data["spacing"].tolist()))


def _prepare(folder: Path, kept: Path):
    volume = read_volume(folder / "ct.nrrd")
    values = segment_regions(volume).array.astype(np.uint8)
    tissue = {u.segment.value: CLASS_OF_TISSUE[u.structure.tissue] for u in understand(REGIONS)}
    if (folder / "segmentation.nrrd").exists():
        organs = read_segmentation(folder / "segmentation.nrrd")
        for number, organ in enumerate(understand(organs.segments)):
            if organ.how != "not understood" and CLASS_OF_TISSUE[organ.structure.tissue] != BODY:
                values[organs.mask(organ.segment)] = FIRST_ORGAN + number
                tissue[FIRST_ORGAN + number] = CLASS_OF_TISSUE[organ.structure.tissue]
    hu = np.where(values == 0, np.int16(OUTSIDE_HU), np.maximum(volume.array, np.int16(OUTSIDE_HU) - 24))  # the couch is not learned
    image = to_sitk(hu.astype(np.float32), volume.geometry)
    smooth = np.rint(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 3.0))).astype(np.int16)
    part = kept.with_name(kept.name + ".part.npz")
    classes = np.array(sorted(tissue.items()))
    np.savez(part, hu=hu.astype(np.int16), smooth=smooth, values=values, tissue=classes, spacing=volume.geometry.spacing)
    part.replace(kept)


_REGION = {segment.name: segment.value for segment in REGIONS} | {"body": FIRST_ORGAN - 1}
_TABLE_HU = {GAS: -900.0, LUNG: -830.0, FAT: -100.0, SOFT: 45.0, BLOOD: 150.0, BONE: 300.0, AIR: OUTSIDE_HU, BODY: BODY_HU}


class SlabSampler:
    """``sampler(n)`` is batch n: a function of n alone, so that a resumed training sees what it would have seen."""

    def __init__(self, cases: list[Case], sampling: Sampling, hu_map: HUMap, *, batch: int, seed: int = 0):
        self.cases, self.sampling, self.hu_map, self.batch, self.seed = cases, sampling, hu_map, batch, seed
        extent = np.array([len(case.hu) for case in cases], dtype=float)
        self.weights = np.sqrt(extent) / np.sqrt(extent).sum()  # long scans more often, but not in proportion

    def __call__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, n))
        samples = [self._sample(rng) for _ in range(self.batch)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _sample(self, rng):
        s = self.sampling
        case = self.cases[rng.choice(len(self.cases), p=self.weights)]
        hu, smooth, values, spacing = _slab(case, s, rng)
        values, tissue, table_hu, known = _condition(hu, smooth, values, case.tissue, s, rng)
        scan = _measure(hu, smooth, spacing) if rng.random() < s.known_scan else Scan(spacing)
        condition, expected = planes(values, tissue, table_hu, known, scan, self.hu_map)
        start = [int(p) for p in rng.integers(-(2**20), 2**20, 3)]
        start = (start[0], start[1] * CELL, start[2] * CELL)
        noise = lattice_noise(int(rng.integers(2**31)), start, values.shape)
        return {"real": self.hu_map.to_network(hu), "condition": condition, "expected": expected, "noise": noise.transpose(0, 1)}


def _slab(case: Case, s: Sampling, rng):
    """A slab of ``s.slices`` slices and ``s.size``² pixels: HU and smoothed HU (float), label values (int32), spacing in mm."""
    thick = 2 if case.spacing[2] <= 2.6 and len(case.hu) >= 2 * s.slices and rng.random() < s.thicker else 1
    first = int(rng.integers(0, max(len(case.hu) - s.slices * thick, 0) + 1))
    window = slice(first, first + s.slices * thick)
    zoom, angle = 1.0, 0.0
    if rng.random() < s.resampled:
        zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(s.coarsest))))
        angle = float(np.deg2rad(rng.uniform(-s.rotation, s.rotation)))
    body = np.nonzero(case.values[window].any(axis=0))
    centre = [float(rng.uniform(body[axis].min(), body[axis].max() + 1)) for axis in (0, 1)] if len(body[0]) else [0.0, 0.0]
    half = zoom * s.size / 2
    for axis in (0, 1):  # keep most of the slab inside the image
        extent = case.hu.shape[axis + 1]
        centre[axis] = float(np.clip(centre[axis], min(half, extent / 2), max(extent - half, extent / 2)))
    if zoom == 1.0 and angle == 0.0:
        centre = [round(c) for c in centre]
    stacks = [torch.from_numpy(np.ascontiguousarray(a[window])) for a in (case.hu, case.smooth, case.values)]
    if len(stacks[0]) < s.slices * thick:  # a short scan is continued by its last slice
        stacks = [torch.cat([a, a[-1:].expand(s.slices * thick - len(a), -1, -1)]) for a in stacks]
    hu, smooth, values = (_cut(stack, centre, zoom, angle, s.size, nearest=n == 2) for n, stack in enumerate(stacks))
    if thick == 2:
        hu, smooth, values = hu.unflatten(0, (-1, 2)).mean(1), smooth.unflatten(0, (-1, 2)).mean(1), values[::2]
    return hu, smooth, values.int(), (case.spacing[0] * zoom, case.spacing[1] * zoom, case.spacing[2] * thick)


def _cut(stack, centre, zoom, angle, size, *, nearest):
    """The ``size``² window about ``centre`` (j, i), rotated and scaled; outside the image the first value of the class 'outside'."""
    outside = 0.0 if nearest else OUTSIDE_HU
    if zoom == 1.0 and angle == 0.0:
        top, left = centre[0] - size // 2, centre[1] - size // 2
        bottom, right = top + size - stack.shape[1], left + size - stack.shape[2]
        inner = stack[:, max(top, 0) : top + size, max(left, 0) : left + size].float()
        return F.pad(inner, (max(-left, 0), max(right, 0), max(-top, 0), max(bottom, 0)), value=outside)
    finer = 1 if nearest or zoom < 1.3 else 2  # average where the target is coarser, so that noise does not alias
    n = size * finer
    offset = (torch.arange(n) - (n - 1) / 2) * (zoom / finer)
    j, i = torch.meshgrid(offset, offset, indexing="ij")
    y = centre[0] - 0.5 + np.cos(angle) * j - np.sin(angle) * i
    x = centre[1] - 0.5 + np.sin(angle) * j + np.cos(angle) * i
    grid = torch.stack([(2 * x + 1) / stack.shape[2] - 1, (2 * y + 1) / stack.shape[1] - 1], dim=-1)[None].float()
    image = stack[None].float() - outside
    cut = F.grid_sample(image, grid, mode="nearest" if nearest else "bilinear", padding_mode="zeros", align_corners=False)[0] + outside
    return F.avg_pool2d(cut, finer) if finer > 1 else cut


def _condition(hu, smooth, values, tissue_of, s: Sampling, rng):
    """Merge, split and hide: label values (D, H, W), and the tables (tissue, HU, known) indexed by them."""
    values = values.clone()
    if rng.random() < s.split_soft_tissue:
        _split(values, smooth, rng)
    if rng.random() < 0.3:  # the case's own segments are not always there
        values[(values >= FIRST_ORGAN) & (values < FIRST_PART)] = _REGION["soft_tissue"]
    for name, parent, probability in s.merge:
        if rng.random() < probability:
            values[values == _REGION[name]] = _REGION[parent]
            if name == "soft_tissue" and rng.random() < 0.5:
                values[values >= FIRST_PART] = _REGION[parent]
    if rng.random() < s.body_only:
        values[values > 0] = _REGION["body"]

    tissue, table, known = torch.full((256,), BODY), torch.full((256,), BODY_HU), torch.zeros(256, dtype=torch.bool)
    tissue[0], table[0], known[0] = AIR, OUTSIDE_HU, True
    for value in values.unique().tolist():
        kind = SOFT if value >= FIRST_PART else tissue_of.get(value, BODY)
        if value == 0 or kind == BODY:
            continue
        tissue[value] = kind
        inside = hu[values == value]
        median = float(inside.median())
        if len(inside) > 60 and rng.random() < s.known_hu:
            table[value], known[value] = median, True
        elif kind in (SOFT, BLOOD):
            table[value] = median + rng.normal(0, 25)
        else:
            table[value] = _TABLE_HU[kind] + rng.normal(0, 20)
    return values, tissue, table, known


def _split(values, smooth, rng):
    """Soft tissue cut at random levels of the smoothed CT into up to three make-believe organs, each with an HU of its own."""
    soft = values == _REGION["soft_tissue"]
    if soft.sum() < 400:
        return
    shares = np.sort(rng.uniform(0.15, 0.9, int(rng.integers(1, 3))))
    for number, level in enumerate(torch.quantile(smooth[soft][:100_000], torch.tensor(shares, dtype=torch.float32))):
        values[soft & (smooth > level)] = FIRST_PART + number


def _measure(hu, smooth, spacing) -> Scan:
    """Noise (HU) and sharpness of a slab, from its soft tissue: spread and neighbour correlation of what a small blur removes."""
    grain = hu - blur(hu)
    soft = (smooth > -50) & (smooth < 150)
    if soft.sum() < 500:
        return Scan(spacing)
    noise = 1.4826 * float(grain[soft].abs().median())
    pair = soft[:, :, :-1]
    a, b = grain[:, :, :-1][pair].clamp(-200, 200), grain[:, :, 1:][pair].clamp(-200, 200)
    correlation = float((a * b).mean() / (0.5 * (a.square() + b.square())).mean().clamp(min=1e-3))
    return Scan(spacing, noise, min(max(1 - correlation, 0.0), 1.5))


def blur(x, sigma: float = 1.5):
    """Gaussian blur of each slice, edges replicated; ``x`` is (..., H, W)."""
    radius = int(2.5 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sigma) ** 2)
    taps = taps / taps.sum()
    flat = F.pad(x.reshape(-1, 1, *x.shape[-2:]).float(), (radius,) * 4, mode="replicate")
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 the blur would round to 8 HU and drown the grain
        return F.conv2d(F.conv2d(flat, taps[None, None, :, None]), taps[None, None, None, :]).reshape(x.shape)
