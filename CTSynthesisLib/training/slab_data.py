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
from ..smoothing import smoothed
from ..synthesis.condition import AIR, BLOOD, BODY, BODY_HU, BONE, CLASS_OF_TISSUE, FAT, GAS, LUNG, SOFT, Scan, planes
from ..synthesis.hu_map import HUMap
from ..synthesis.noise import CELL, lattice_noise
from ..synthesis.scan_quality import SOFT_TISSUE_HU, blur, measure
from ..volume import reorder, to_sitk

FIRST_ORGAN = 20  # label values below it are regions, from it on the case's own segments
FIRST_PART = 200  # make-believe organs
OUTSIDE_HU = -1000.0


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; probabilities unless a unit is given."""

    slices: int = 6
    size: int = 160  # pixels, a multiple of the generator's stride
    mirrored: float = 0.5  # left to right; the generator knows no sides
    resampled: float = 0.5  # rotated, scaled and bent; the rest are plain crops that keep the scanner's own noise
    rotation: float = 12.0  # degrees, to either side
    bend: float = 2.5  # pixels, standard deviation of a smooth displacement
    coarsest: float = 2.2  # in-plane spacing over the scan's
    thicker: float = 0.25  # neighbouring slices averaged in pairs
    grainier: float = 0.2  # grain added
    softer: float = 0.15  # blurred in-plane
    split_soft_tissue: float = 0.6
    coarsened: float = 0.35  # tissue borders moved onto a grid of about 4 mm, as painted or filled-in anatomy has them
    known_hu: float = 0.7  # per structure
    known_scan: float = 0.75  # noise, sharpness and slice correlation, each
    merge: tuple[tuple[str, str, float], ...] = (
        ("lung_vessels", "lungs", 0.15), ("airway", "lungs", 0.25), ("bowel_gas", "body", 0.1), ("blood", "soft_tissue", 0.25),
        ("fat", "body", 0.07), ("bone", "body", 0.05), ("soft_tissue", "body", 0.1), ("lungs", "body", 0.01),
    )  # fmt: skip
    body_only: float = 0.01


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
    axes, flips = volume.geometry.anatomical_axes
    values, array = (np.ascontiguousarray(reorder(a, axes, flips)) for a in (values, volume.array))
    axial = volume.geometry.reordered(axes, flips)
    hu = np.where(values == 0, np.int16(OUTSIDE_HU), np.maximum(array, np.int16(OUTSIDE_HU) - 24))  # the couch is not learned
    image = to_sitk(hu.astype(np.float32), axial)
    smooth = np.rint(sitk.GetArrayFromImage(smoothed(image, 3.0))).astype(np.int16)
    part = kept.with_name(kept.name + ".part.npz")
    classes = np.array(sorted(tissue.items()))
    np.savez(part, hu=hu.astype(np.int16), smooth=smooth, values=values, tissue=classes, spacing=axial.spacing)
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
        if rng.random() < s.mirrored:
            hu, smooth, values = hu.flip(-1), smooth.flip(-1), values.flip(-1)
        hu = _regrained(hu, values, s, rng)
        values, tissue, table_hu, known = _condition(hu, smooth, values, case.tissue, s, rng)
        scan = _scan(hu, smooth, spacing, s, rng)
        condition, expected = planes(values, tissue, table_hu, known, scan, self.hu_map)
        start = [int(p) for p in rng.integers(-(2**20), 2**20, 3)]
        start = (start[0], start[1] * CELL, start[2] * CELL)
        noise = lattice_noise(int(rng.integers(2**31)), start, values.shape)
        return {"real": self.hu_map.to_network(hu), "condition": condition, "expected": expected, "noise": noise}


def _slab(case: Case, s: Sampling, rng):
    """A slab of ``s.slices`` slices and ``s.size``² pixels: HU and smoothed HU (float), label values (int32), spacing in mm."""
    thick = 2 if case.spacing[2] <= 2.6 and len(case.hu) >= 2 * s.slices and rng.random() < s.thicker else 1
    first = int(rng.integers(0, max(len(case.hu) - s.slices * thick, 0) + 1))
    window = slice(first, first + s.slices * thick)
    zoom, angle, bend = 1.0, 0.0, None
    if rng.random() < s.resampled:
        zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(s.coarsest))))
        angle = float(np.deg2rad(rng.uniform(-s.rotation, s.rotation)))
        bend = torch.from_numpy(rng.normal(0, s.bend * zoom, (1, 2, 7, 7)).astype(np.float32))
    body = np.nonzero(case.values[window].any(axis=0))
    centre = [float(rng.uniform(body[axis].min(), body[axis].max() + 1)) for axis in (0, 1)] if len(body[0]) else [0.0, 0.0]
    half = zoom * s.size / 2
    for axis in (0, 1):  # keep most of the slab inside the image
        extent = case.hu.shape[axis + 1]
        centre[axis] = float(np.clip(centre[axis], min(half, extent / 2), max(extent - half, extent / 2)))
    if bend is None:
        centre = [round(c) for c in centre]
    stacks = [torch.from_numpy(np.ascontiguousarray(a[window])) for a in (case.hu, case.smooth, case.values)]
    if len(stacks[0]) < s.slices * thick:  # a short scan is continued by its last slice
        stacks = [torch.cat([a, a[-1:].expand(s.slices * thick - len(a), -1, -1)]) for a in stacks]
    hu, smooth, values = (_cut(stack, centre, zoom, angle, bend, s.size, nearest=n == 2) for n, stack in enumerate(stacks))
    if thick == 2:
        hu, smooth, values = hu.unflatten(0, (-1, 2)).mean(1), smooth.unflatten(0, (-1, 2)).mean(1), values[::2]
    return hu, smooth, values.int(), (case.spacing[0] * zoom, case.spacing[1] * zoom, case.spacing[2] * thick)


def _cut(stack, centre, zoom, angle, bend, size, *, nearest):
    """The ``size``² window about ``centre`` (j, i), rotated, scaled and bent; outside the image there is air."""
    outside = 0.0 if nearest else OUTSIDE_HU
    if bend is None:
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
    dy, dx = F.interpolate(bend, size=(n, n), mode="bicubic", align_corners=True)[0]
    y, x = y + dy, x + dx
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
    if rng.random() < s.coarsened:
        _coarsen(values)
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


def _coarsen(values):
    """Tissue borders as coarse as a small network fills them in: shares of cells of 4 × 4 pixels and 2 slices, interpolated."""
    movable = [_REGION[name] for name in ("soft_tissue", "fat", "bone", "blood", "bowel_gas", "airway")]
    where = torch.isin(values, torch.tensor(movable, dtype=values.dtype))
    members = torch.stack([values == value for value in movable]).float()[None]
    shares = F.avg_pool3d(members, (2, 4, 4), ceil_mode=True)
    smooth = F.interpolate(shares, scale_factor=(2, 4, 4), mode="trilinear", align_corners=False)[0, :, : len(values)]
    best = smooth[:, :, : values.shape[1], : values.shape[2]].argmax(0)
    values[where] = torch.tensor(movable, dtype=values.dtype)[best][where]


def _split(values, smooth, rng):
    """Soft tissue cut at random levels of the smoothed CT into up to three make-believe organs, each with an HU of its own."""
    soft = values == _REGION["soft_tissue"]
    if soft.sum() < 400:
        return
    shares = np.sort(rng.uniform(0.15, 0.9, int(rng.integers(1, 3))))
    for number, level in enumerate(torch.quantile(smooth[soft][:100_000], torch.tensor(shares, dtype=torch.float32))):
        values[soft & (smooth > level)] = FIRST_PART + number


def _regrained(hu, values, s: Sampling, rng):
    """More grain, or less and softer, inside the body of some slabs: few scanners have to stand for many."""
    if rng.random() < s.softer:
        hu = blur(hu, float(rng.uniform(0.5, 1.0)))
    if rng.random() < s.grainier:
        noise = lattice_noise(int(rng.integers(2**31)), [0, 0, 0], hu.shape)
        share = rng.dirichlet(np.ones(len(noise) - 1)) ** 0.5
        grain = sum(float(w) * band for w, band in zip(share, noise, strict=False))
        hu = hu + float(rng.uniform(4, 18)) * grain * (values > 0)
    return hu.clamp(min=OUTSIDE_HU - 24)


def _scan(hu, smooth, spacing, s: Sampling, rng) -> Scan:
    """What the condition tells of the slab as a whole, each figure hidden now and then."""
    quality = measure(hu, (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1]))
    figures = (quality.noise, quality.sharpness, quality.slice_correlation) if quality else (None,) * 3
    return Scan(spacing, *(figure if rng.random() < s.known_scan else None for figure in figures))
