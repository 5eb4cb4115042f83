"""The volume of interest around a nodule: cut out, what simple means put there, its grain, and the networks' view of it at 1 mm.

All that changes voxels happens on the scan's own grid; the networks' corrections are made at 1 mm and brought back, so the surroundings
are never resampled. Training and inference build their inputs here, in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ..regions import REGIONS
from ..volume import Geometry, distance_mm, resample
from .nodule_shape import SOLID_HU, Nodule, Rendered, render
from .noise import white_noise

MM = 1.0  # the networks' grid
_LUNGS, _VESSELS = (next(s.value for s in REGIONS if s.name == name) for name in ("lungs", "lung_vessels"))
STRIDE = 8  # of the networks
MARGIN_MM = 14.0  # around the nodule; wider than the correlation of lung texture
SMALLEST_SIDE = 48  # mm
HIDDEN_MM = 2.0  # around a solid nodule, which hides what it replaces
BLUR_MM, BLUR_SLICES = 0.5, 0.35  # of scanners, beyond the size of a voxel; training draws it around these
RING_MM = 3.0  # around what is painted, over which it fades into the scan
LONGEST_MM = 8.0  # that texture's correlation is followed
_AXES = (0, 1, 2)
_STREAM = 21  # of white_noise
BORROWED_MM, PLACES_TRIED, MOST_UNHEALTHY = 30.0, 120, 0.15  # see `borrowed`
UNIT_HU, ZERO_HU = 500.0, -500.0  # network units
GRAIN_UNITS = 4.0  # grain is shown amplified


@dataclass(frozen=True, eq=False)
class Voi:
    """A box of a scan. ``hu`` (k, j, i) float32 begins at voxel ``start`` (k, j, i; may be negative: beyond the border its voxels repeat).

    ``native`` is its geometry along its own axes in mm, ``grid`` that of the networks, ``centre`` (k, j, i) the nodule's voxel in it.
    """

    hu: np.ndarray
    start: tuple[int, int, int]
    native: Geometry
    grid: Geometry
    centre: tuple[float, float, float]

    def to_grid(self, array: np.ndarray) -> np.ndarray:
        return resample(np.ascontiguousarray(array, np.float32), self.native, self.grid)

    def to_native(self, array: np.ndarray) -> np.ndarray:
        return resample(np.ascontiguousarray(array, np.float32), self.grid, self.native)


def side_for(reach_mm: float) -> int:
    """Side in mm of the volume of interest for a nodule that reaches so far from its centre."""
    return max(SMALLEST_SIDE, STRIDE * int(np.ceil(2 * (reach_mm + MARGIN_MM) / STRIDE)))


def bounds(shape, spacing, centre, side: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel (k, j, i) of the box, and how many; the box may reach beyond the volume of ``shape``."""
    steps = np.asarray(spacing, float)[::-1]
    low = np.floor(np.asarray(centre) - (side / 2 + 2) / steps).astype(int) - 1
    return low, np.ceil(np.asarray(centre) + (side / 2 + 2) / steps).astype(int) + 2 - low


def cut(array: np.ndarray, low, count) -> np.ndarray:
    """The box of ``array``; beyond its border the outermost voxels are repeated."""
    index = [np.clip(np.arange(a, a + n), 0, size - 1) for a, n, size in zip(low, count, array.shape, strict=True)]
    spans = [slice(i[0], i[-1] + 1) for i in index]
    return array[tuple(spans)][np.ix_(*(i - i[0] for i in index))]


def voi_at(array: np.ndarray, spacing, centre, side: int) -> Voi:
    """The box of ``side`` mm around voxel ``centre`` (k, j, i) of a scan ``array`` in HU with ``spacing`` (i, j, k)."""
    low, count = bounds(array.shape, spacing, centre, side)
    native = Geometry.from_spacing(count, spacing)
    within = np.asarray(centre, float) - low
    corner = within * np.asarray(spacing, float)[::-1] - side / 2 + MM / 2  # mm from the box's first voxel, (k, j, i)
    grid = Geometry.from_spacing((round(side / MM),) * 3, (MM,) * 3, (-corner[2], -corner[1], corner[0]))
    return Voi(cut(array, low, count).astype(np.float32), tuple(int(n) for n in low), native, grid, tuple(within))


# ------------------------------------------------------------------------------------------------------ what simple means put there


def nodule_in(voi: Voi, nodule: Nodule) -> Rendered:
    return render(nodule, voi.hu.shape, voi.native.spacing, voi.centre)


def filled(voi: Voi, hidden: np.ndarray, healthy: np.ndarray) -> np.ndarray:
    """HU (k, j, i) with what is ``hidden`` (0 to 1) filled in smoothly from the ``healthy`` lung (bool) around it."""
    known = (healthy & (hidden < 0.05)).astype(np.float32)
    if known.sum() < 20:
        known = (hidden < 0.05).astype(np.float32)
    guess, trust = np.zeros_like(voi.hu), np.zeros_like(voi.hu)
    for sigma, weight in ((3.0, 1.0), (8.0, 1e-2), (20.0, 1e-5)):  # near lung where there is some, else what lies farther away
        guess += weight * gaussian(known * voi.hu, voi.native.spacing, sigma)
        trust += weight * gaussian(known, voi.native.spacing, sigma)
    guess = np.where(trust > 1e-9, guess / np.maximum(trust, 1e-9), np.average(voi.hu, weights=known + 1e-6))
    return voi.hu + hidden * (guess - voi.hu)


def base_of(voi: Voi, healthy: np.ndarray, within: np.ndarray) -> float:
    """Median HU of the healthy lung near ``within`` (bool)."""
    near = healthy & (gaussian(within.astype(np.float32), voi.native.spacing, 6.0) > 1e-3) & ~within
    near = near if near.sum() > 100 else healthy & ~within
    return float(np.median(voi.hu[near])) if near.sum() > 20 else -850.0


def opacity(rendered: Rendered, base: float) -> np.ndarray:
    """Which share of the air in each voxel the nodule replaces with tissue: all where it is solid, so that lung of ``base`` HU gets its HU.

    Vessels and walls stay visible through ground glass, as its definition asks (Hansell et al. 2008).
    """
    share = (rendered.hu - base) / (SOLID_HU - base) if base < SOLID_HU - 50 else np.ones_like(rendered.hu)
    return rendered.occupancy * np.clip(share, 0.05, 1)


def smeared(array: np.ndarray, spacing, mm: float = BLUR_MM, slices: float = BLUR_SLICES) -> np.ndarray:
    """``array`` as the scanner shows it: blurred by ``mm``, and across thick slices by so much of their distance."""
    sigma = np.maximum(mm, slices * np.asarray(spacing))
    return gaussian(array, np.asarray(spacing) / sigma, 1.0)


def composite(hu: np.ndarray, share: np.ndarray) -> np.ndarray:
    """``hu`` with a ``share`` of it replaced by tissue."""
    return hu + share * (SOLID_HU - hu)


def hidden_by(rendered: Rendered, spacing) -> np.ndarray:
    """What the injector may not see (0 to 1): the centre, as far as solid parts of the nodule cover it and ``HIDDEN_MM`` more."""
    solid = np.where(rendered.hu > -300, rendered.occupancy, 0)
    return spread(solid >= 0.5, spacing, HIDDEN_MM)


def spread(mask: np.ndarray, spacing, mm: float) -> np.ndarray:
    """1 within ``mask`` (bool), falling to 0 at a distance of ``mm`` from it, smoothly."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)

    away = distance_mm(mask, np.asarray(spacing))
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(away / max(mm, 1e-3), 0, 1))).astype(np.float32)


def thin(mask: np.ndarray, spacing, mm: float = 2.0) -> np.ndarray:
    """Those parts of ``mask`` (bool) that no ball of radius ``mm`` fits into."""
    radius = [max(1, int(round(mm / step))) for step in spacing]
    image = sitk.GetImageFromArray(np.pad(mask, [(r, r) for r in radius[::-1]], mode="edge").astype(np.uint8))
    opened = sitk.GetArrayFromImage(sitk.BinaryMorphologicalOpening(image, radius, sitk.sitkBall)) > 0
    return mask & ~opened[tuple(slice(r, n - r) for r, n in zip(radius[::-1], opened.shape, strict=True))]


def gaussian(array: np.ndarray, spacing, mm: float) -> np.ndarray:
    """Gaussian blur by ``mm`` along each axis, zeros beyond the border; 0 where the voxels are wider than that."""
    result = np.ascontiguousarray(array, np.float32)
    for axis, step in enumerate(np.asarray(spacing)[::-1]):
        if mm / step < 0.2:
            continue
        n, sigma = result.shape[axis], mm / step
        apart = np.arange(-n + 1, n)
        taps = np.where(np.abs(apart) <= np.ceil(3 * sigma), np.exp(-0.5 * (apart / sigma) ** 2), 0)
        whole = np.exp(-0.5 * (np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1) / sigma) ** 2).sum()
        matrix = (taps[np.subtract.outer(np.arange(n), np.arange(n)) + n - 1] / whole).astype(np.float32)
        result = np.moveaxis(np.tensordot(matrix, result, (1, axis)), 0, axis)  # far faster than a convolution by so wide a kernel
    return np.ascontiguousarray(result)


# --------------------------------------------------------------------------------------------------------------------------- grain


@dataclass(frozen=True, eq=False)
class Texture:
    """Of healthy lung: ``gain`` of each spatial frequency (rfftn of the box; unit variance), and ``spread`` in HU."""

    gain: np.ndarray
    spread: float


def texture(voi: Voi, healthy: np.ndarray) -> Texture:
    """The texture of the ``healthy`` lung (bool) in the box.

    The autocovariance is that of the lung about its local mean, over the pairs of healthy voxels, out to 8 mm.
    """
    spacing, mask = voi.native.spacing, healthy.astype(np.float32)
    low = gaussian(mask * voi.hu, spacing, 5.0) / np.maximum(gaussian(mask, spacing, 5.0), 1e-3)
    rest = np.where(healthy, voi.hu - low, 0)
    if healthy.sum() < 200:
        return Texture(np.ones(np.fft.rfftn(rest).shape, np.float32), 30.0)
    strength = 1.4826 * np.median(np.abs(rest[healthy]))
    rest = np.clip(rest, -4 * strength, 6 * strength)  # vessels' rims are not its texture
    sd = float(rest[healthy].std())
    shape = rest.shape
    padded = [n + int(np.ceil(LONGEST_MM / step)) + 1 for n, step in zip(shape, spacing[::-1], strict=True)]  # lags do not wrap around
    pairs = np.fft.irfftn(np.abs(np.fft.rfftn(mask, padded, _AXES)) ** 2, padded, _AXES)
    lags = np.fft.irfftn(np.abs(np.fft.rfftn(rest, padded, _AXES)) ** 2, padded, _AXES) / np.maximum(pairs, 50)
    at = [np.where(np.arange(n) <= n // 2, np.arange(n), np.arange(n) - n) for n in shape]  # of the box's own length, half of them negative
    lags = lags[np.ix_(*at)]
    k, j, i = (lag * step for lag, step in zip(at, spacing[::-1], strict=True))
    distance = np.sqrt(k[:, None, None] ** 2 + j[:, None] ** 2 + i**2)
    window = np.clip(1 - distance / LONGEST_MM, 0, 1)
    power = np.maximum(np.fft.rfftn(lags * window).real, 0)
    gain = np.sqrt(power)
    full = np.fft.irfftn(power, shape, _AXES)[0, 0, 0]  # variance of white noise so filtered
    return Texture((gain / np.sqrt(max(full, 1e-9))).astype(np.float32), max(sd, 3.0))


def grain(texture: Texture, shape, seed: int, lattice) -> np.ndarray:
    """Noise (k, j, i) of unit variance with lung's spectrum; it lives in the world: ``lattice`` (k, j, i) is the box's place there."""
    white = white_noise(seed, _STREAM, [int(n) for n in lattice], shape).numpy()
    return np.fft.irfftn(np.fft.rfftn(white) * texture.gain, shape, _AXES).astype(np.float32)


def borrowed(array, labels, spacing, voi: Voi, where: np.ndarray, rng) -> np.ndarray | None:
    """Texture in HU (k, j, i) of another place of the same lung, about its local mean, for where the eraser is to paint; None if there is
    none.

    Of many places within 30 mm, the one whose surroundings are most like those here. Lung is more than noise with a spectrum: it has bright
    dots and threads (vessels too small to outline), which noise does not draw. ``labels`` are as in :func:`lung_in`.
    """
    found = np.argwhere(where > 0)
    begin, shape = found.min(0), np.ptp(found, axis=0) + 1
    reach = np.ceil(BORROWED_MM / np.asarray(spacing)[::-1]).astype(int)
    low = np.maximum(begin + voi.start - reach, 0)
    high = np.minimum(begin + voi.start + shape + reach, array.shape)
    if ((high - low) < shape).any():
        return None
    window = tuple(map(slice, low, high))
    hu = array[window].astype(np.float32)
    even = gaussian(hu, spacing, 1.0)
    healthy = lung_in(None if labels is None else labels[window], hu)[1] & (even < -450)
    here = begin + voi.start - low  # of the place itself
    own = np.clip(here, 0, None)
    healthy[tuple(slice(max(a, 0), max(a + n, 0)) for a, n in zip(own, shape, strict=True))] = False
    part = tuple(slice(a, a + n) for a, n in zip(begin, shape, strict=True))
    asked, ring = where[part] > 0, (where[part] > 0) & (where[part] < 0.6)
    around = voi.hu[part][ring]
    best, place = np.inf, None
    for _ in range(PLACES_TRIED):
        at = rng.integers(0, high - low - shape + 1)
        there = tuple(slice(a, a + n) for a, n in zip(at, shape, strict=True))
        bad = 1 - healthy[there][asked].mean()
        if bad > MOST_UNHEALTHY:
            continue
        cost = float(np.abs(np.clip(hu[there][ring], -1000, -500) - np.clip(around, -1000, -500)).sum()) / max(len(around), 1) + 300 * bad
        if cost < best:
            best, place = cost, there
    if place is None:
        return None
    mean = gaussian(healthy * hu, spacing, 5.0) / np.maximum(gaussian(healthy, spacing, 5.0), 1e-3)
    result = np.zeros_like(voi.hu)
    result[part] = np.where(even[place] < -300, np.clip(hu[place] - mean[place], -300, 400), 0)
    return result


def lung_in(labels: np.ndarray | None, hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where there is lung, and where there is lung without vessels (bool), from the regions; without them, everywhere and by HU."""
    if labels is None:
        return np.ones(hu.shape, bool), (hu > -980) & (hu < -650)
    return (labels == _LUNGS) | (labels == _VESSELS), labels == _LUNGS


def noise_of(hu: np.ndarray, soft: np.ndarray) -> float:
    """Spread of even soft tissue in HU: of the differences between neighbouring voxels two apart, which structure hardly reaches."""
    pairs = soft[:, :, 2:] & soft[:, :, :-2]
    if pairs.sum() < 500:
        return 20.0
    step = (hu[:, :, 2:].astype(np.float32) - hu[:, :, :-2])[pairs]
    return float(np.clip(1.4826 * np.median(np.abs(step)) / np.sqrt(2), 4, 80))


# ------------------------------------------------------------------------------------------------------------- the networks' view


def units(hu):
    return (hu - ZERO_HU) / UNIT_HU


def inputs(voi: Voi, visible, where, share, simple, grain_hu) -> torch.Tensor:
    """What a network sees (5, D, H, W), from arrays on the scan's own grid.

    Parameters
    ----------
    visible : HU, as far as it may be seen
    where : 0 to 1, where it is to paint
    share : 0 to 1, how much of the air the nodule replaces (injector); the nodule (eraser)
    simple : HU that simple means give
    grain_hu : HU
    """
    parts = units(voi.to_grid(visible)), voi.to_grid(where), voi.to_grid(share), units(voi.to_grid(simple)), voi.to_grid(grain_hu)
    x = np.stack([*parts[:4], parts[4] * (GRAIN_UNITS / UNIT_HU)])
    x[[0, 3]] = np.clip(x[[0, 3]], -1.1, 2.5)
    return torch.from_numpy(x)


def grain_inside(share, filling, noise: float, spread: float):
    """Grain of a nodule in HU: tissue's where it is solid; ground glass has more than half of the lung's beside what shines through."""
    return share * noise + (filling - share).clip(0) * 0.6 * spread


def injector_inputs(voi: Voi, rendered: Rendered, share, healthy, inside, grain: np.ndarray, noise: float, lung: Texture):
    """What the injector sees: the volume with its centre masked out, and the parametric nodule in it; see :func:`inputs`."""
    hidden = hidden_by(rendered, voi.native.spacing) * inside
    visible = filled(voi, hidden, healthy)
    where = np.maximum(hidden, spread(rendered.occupancy > 0.05, voi.native.spacing, RING_MM) * inside)
    amount = grain_inside(share, rendered.occupancy, noise, lung.spread) + hidden * (1 - rendered.occupancy) * lung.spread
    return inputs(voi, visible, where, share, composite(visible, share), amount * grain)


def eraser_inputs(voi: Voi, occupancy, where, healthy, grain_hu: np.ndarray) -> torch.Tensor:
    """What the eraser sees: the volume with the nodule, where it may paint, and lung filled in smoothly there; see :func:`inputs`."""
    return inputs(voi, voi.hu, where, occupancy, filled(voi, where, healthy), grain_hu)


def painted(x: torch.Tensor, correction: torch.Tensor, log_gain: torch.Tensor, through: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The volume of interest (B, D, H, W) in network units as the network paints it, without its grain and with it."""
    visible, where, simple, noise = x[:, 0], x[:, 1], x[:, 3], x[:, 4] / GRAIN_UNITS
    plain = simple + where * (correction + through * (visible - simple))
    return plain, plain + where * log_gain.exp() * noise
