"""From one structure's texture to another's: gains and grain by band, then a monotone map of Hounsfield units.

A structure is taken apart in-plane into five octave bands (differences of Gaussians of 1 to 16 pixels, within its own mask) and what is
left. Each band is damped where the reference has less of it; the three finest are filled up with noise that lives in the world (``noise``)
where it has more. Then fixed monotone curves, one for the outermost pixels and one for the rest, take the distribution of HU to the
reference's. Everything but the curves is a filter of finite reach, and the curves are tables: both are fitted before, so nothing here looks
at the statistics of the image that is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .noise import CELL, interpolated, white_noise

SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0)  # pixels
BANDS = len(SIGMAS)
FINE = 2  # of them that are taken of single pixels; the coarser ones of means of 4 × 4
QUANTILES = np.array([0.01, 0.02, *np.linspace(0.03, 0.97, 48), 0.98, 0.99])
FILLED = 3  # bands that may be filled up with noise; what the coarser ones lack is anatomy, and blotches are none
FITTING = 3  # rounds
STEADY_ENDS = 0.5  # slope of the curves beyond their quantiles: longer tails than where they were fitted shall not change the mean
LEVELS, HELD = (0.4, 0.6), 0.3  # quantiles between which what is left below the bands varies freely, and how much of it is kept beyond
STEEPEST, STEEPEST_RIM = 1.5, 2.0  # slopes of the curves: what varies little, like one vessel, is not torn apart to look like several …
STRETCHED = np.linspace(1.0, 2.0, 11)  # … so the rest of the curve is made so much steeper, until the spread is the reference's
LIFT, LIFT_OF_SPREAD = 25.0, 0.5  # HU, and in spreads: by more it is not held; a thin sheet's local mean is its neighbours' too
FEWEST_INSIDE = 0.45  # of a structure that is not all border; of lung vessels it is 0.3, of bones and airways 0.6 and more
FEWEST_IN_A_ZONE = 100  # voxels, for a curve of its own
COARSE_GAIN = {3: 1.12, 4: 1.03}  # interpolation between lattice points takes some of the spread away
_STREAM = 11  # of white_noise; the generator's own streams are 1 and 2


@dataclass(frozen=True)
class Texture:
    """What a scan shows of one structure: strength (HU) and correlation between slices of the grain by band, and quantiles of HU."""

    mean: float
    spread: float
    bands: tuple[float, ...]
    slice_correlation: tuple[float, ...]
    quantiles: tuple[float, ...]
    rim: tuple[float, ...]  # quantiles of the outermost pixels
    voxels: int
    thin: bool = False  # nearly all border: its bands show borders, not grain


@dataclass(frozen=True)
class Transfer:
    """How a content's structure is made to look like the reference's; see :func:`fit`."""

    gains: tuple[float, ...]
    grain: tuple[float, ...]  # HU
    slice_correlation: tuple[float, ...]
    before: tuple[float, ...]  # the curve: HU …
    after: tuple[float, ...]  # … and what becomes of them
    rim: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # the curve of the outermost pixels, where it is another
    levels: tuple[float, float] = (-np.inf, np.inf)  # HU between which what is left below the bands varies freely
    ends: float = 1.0  # slope of the curves beyond their ends
    lift: float = 0.0  # HU by which what is left below the bands is brought to the levels at most


class Within:
    """Takes slices apart within one ``mask`` (D, H, W; 0-1): blurred masks are computed once."""

    def __init__(self, mask: torch.Tensor):
        self.mask, self.small = mask, _pooled(mask)
        self._shares = {sigma: _blurred(mask, sigma).clamp_(min=1e-4) for sigma in SIGMAS[:FINE]}
        self._shares |= {sigma: _blurred(self.small, sigma / CELL).clamp_(min=1e-4) for sigma in SIGMAS[FINE:]}

    def bands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bands (5, D, H, W) of ``x`` (D, H, W) in HU, and what is left below them; nothing outside the mask is looked at."""
        inside = x * self.mask
        levels = [x, *(_blurred(inside, sigma) / self._shares[sigma] for sigma in SIGMAS[:FINE])]
        small = _pooled(inside)
        for sigma in SIGMAS[FINE:]:
            smooth = (_blurred(small, sigma / CELL) / self._shares[sigma])[:, None]
            smooth = F.interpolate(smooth, scale_factor=CELL, mode="bilinear", align_corners=False)[:, 0]
            levels.append(smooth[:, : x.shape[1], : x.shape[2]])
        return torch.stack([a - b for a, b in zip(levels, levels[1:], strict=False)]), levels[-1]


def interior(mask: torch.Tensor) -> torch.Tensor:
    """``mask`` (D, H, W, bool) without its outermost pixels in-plane, whose HU say more of the neighbours than of the structure.

    Where little would be left, as of vessels, the whole mask.
    """
    core = _core(mask)
    return core if core.sum() > FEWEST_INSIDE * mask.sum() else mask


def _core(mask: torch.Tensor) -> torch.Tensor:
    wide = F.pad(mask, (1, 1, 1, 1), value=True)
    rows = wide[:, :-2] & wide[:, 1:-1] & wide[:, 2:]
    return rows[:, :, :-2] & rows[:, :, 1:-1] & rows[:, :, 2:]


def zones(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Core and rim of a mask (D, H, W, bool): the rim is the outermost pixel in-plane. Where either is hardly there, both are the mask."""
    core = _core(mask)
    rim = mask & ~core
    return (core, rim) if min(core.sum(), rim.sum()) >= FEWEST_IN_A_ZONE else (mask, mask)


def _quantiles(x: torch.Tensor) -> tuple[float, ...]:
    return tuple(np.quantile(x.numpy(), QUANTILES).tolist())


def measure(x: torch.Tensor, mask: torch.Tensor, firsts=(0,)) -> Texture:
    """The texture of slices ``x`` (D, H, W) within ``mask`` (bool); ``firsts`` are the slices whose predecessor is not their neighbour."""
    bands, _ = Within(mask.float()).bands(x)
    core, rim = zones(mask)
    thin = interior(mask) is mask
    mask = interior(mask)
    inside = x[mask].numpy()
    pairs = mask[1:] & mask[:-1]
    pairs[[n - 1 for n in firsts if 0 < n < len(mask)]] = False
    across = []
    for band in bands:
        a, b = band[1:][pairs], band[:-1][pairs]
        across.append(float((a * b).mean() / (0.5 * (a.square() + b.square())).mean().clamp(min=1e-6)) if pairs.any() else 0.0)
    return Texture(
        mean=float(inside.mean()),
        spread=float(inside.std()),
        bands=tuple(_strength(band[mask]) for band in bands),
        slice_correlation=tuple(min(max(c, 0.0), 1.0) for c in across),
        quantiles=_quantiles(x[core]),
        rim=_quantiles(x[rim]),
        voxels=len(inside),
        thin=thin,
    )


def fit(content: torch.Tensor, mask: torch.Tensor, reference: Texture, *, seed: int = 0, steady: bool = False) -> Transfer:
    """The transfer that gives ``content`` (D, H, W) within ``mask`` (bool) the ``reference``'s texture.

    The curves change the bands again, so that they are fitted in a few rounds. ``steady`` is for a transfer that will meet another anatomy,
    whose parts are thinner or thicker: what lies below the bands is held near its range here, and so are the ends of the curves.
    """
    within, (core, rim), inner = Within(mask.float()), zones(mask), interior(mask)
    filled = 0 if inner is mask or reference.thin else FILLED
    bands, base = within.bands(content)
    levels = tuple(np.quantile(base[inner].numpy(), LEVELS).tolist()) if steady else (-np.inf, np.inf)
    ends = STEADY_ENDS if steady else 1.0
    lift = max(LIFT, LIFT_OF_SPREAD * reference.spread) if steady else 0.0
    base = _held(base, *levels, lift)
    world = Noise(seed, (0, 0, 0), content.shape)
    noise = [world.grain(n, reference.slice_correlation[n]) for n in range(filled)]
    own = np.array([_strength(band[inner]) for band in bands])
    wanted = goal = np.maximum(np.array(reference.bands), 1e-3)
    for _ in range(FITTING):
        gains = np.minimum(1.0, goal / np.maximum(own, 1e-3))
        grain = np.where(np.arange(BANDS) < filled, np.sqrt(np.maximum(goal**2 - (gains * own) ** 2, 0)), 0.0)
        mixed = base + sum(g * b for g, b in zip(gains.tolist(), bands, strict=True))
        mixed = mixed + sum(g * z for g, z in zip(grain.tolist(), noise, strict=False))
        if filled:
            curves = (_gentle(_quantiles(mixed[core]), reference.quantiles, STEEPEST),
                      _gentle(_quantiles(mixed[rim]), reference.rim, STEEPEST_RIM))  # fmt: skip
            curves = curves[0], _one_way(curves[1], curves[0], reference, ends)
        else:
            curves = (_straight(_quantiles(mixed[mask]), reference),) * 2
        made, _ = within.bands(_by_zone(mixed, mask, core, *curves, ends))
        found = np.array([_strength(band[inner]) for band in made])
        goal = goal * (wanted / np.maximum(found, 1e-3)) ** 0.8
    return Transfer(tuple(gains.tolist()), tuple(grain.tolist()), reference.slice_correlation, *curves[0], curves[1], levels, ends, lift)


class Noise:
    """Grain of the world in slices of ``shape`` (D, H, W) from ``start`` (k, j, i) on the lattice; made once for all structures there."""

    def __init__(self, seed: int, start, shape):
        self.seed, self.start, self.shape = seed, start, shape
        self._kept: dict[tuple[int, int, int], torch.Tensor] = {}

    def grain(self, band: int, correlation: float, window=(slice(None), slice(None))) -> torch.Tensor:
        """Noise (D, h, w) of unit variance in a band, in a ``window`` of the slices; neighbouring slices correlate up to 0.8."""
        taps, most = (np.array([0.0, 1, 2, 1, 0]), 2 / 3) if correlation <= 2 / 3 else (np.array([1.0, 4, 6, 4, 1]), 0.8)
        shared = min(correlation / most, 1.0)
        white = self._band(band, _STREAM + band, 2)[(slice(None), *window)]
        weights = taps / np.linalg.norm(taps) * shared**0.5
        result = sum(float(w) * white[n : n + self.shape[0]] for n, w in enumerate(weights) if w)
        if shared < 1:
            result = result + (1 - shared) ** 0.5 * self._band(band, _STREAM + BANDS + band, 0)[(slice(None), *window)]
        return result

    def _band(self, band: int, stream: int, beyond: int) -> torch.Tensor:
        key = band, stream, beyond
        if key not in self._kept:
            start, shape = (self.start[0] - beyond, *self.start[1:]), (self.shape[0] + 2 * beyond, *self.shape[1:])
            self._kept[key] = _band_noise(band, self.seed, stream, start, shape)
        return self._kept[key]


def apply(
    x: torch.Tensor, mask: torch.Tensor, transfer: Transfer, strength: float, *, noise: Noise, window=(slice(None), slice(None))
) -> torch.Tensor:
    """Slices ``x`` (D, H, W) as the reference would show them within ``mask`` (0-1); meaningless far from it.

    Parameters
    ----------
    strength : float
        0 leaves ``x`` as it is, 1 is the whole transfer; between them gains and grain are reduced, and so are the curves.
    noise, window
        Of the slices that ``x`` was cut from, and where.
    """
    bands, base = Within(mask).bands(x)
    mixed = base + strength * (_held(base, *transfer.levels, transfer.lift) - base)
    for n, band in enumerate(bands):
        mixed = mixed + transfer.gains[n] ** strength * band
        if transfer.grain[n] > 0.01:
            mixed = mixed + strength * transfer.grain[n] * noise.grain(n, transfer.slice_correlation[n], window)
    curve = transfer.before, transfer.after
    mapped = _by_zone(mixed, faded(mask) > 0, _core(mask > 0), curve, transfer.rim or curve, transfer.ends)
    return mixed + strength * (mapped - mixed)


def faded(mask: torch.Tensor) -> torch.Tensor:
    """A mask (D, H, W) blurred in-plane by the taps (1, 2, 1) / 4, as a scanner blurs borders: weights of neighbours add up to one."""
    padded = F.pad(mask[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def _held(base: torch.Tensor, low: float, high: float, lift: float) -> torch.Tensor:
    return base + ((1 - HELD) * (base.clamp(low, high) - base)).clamp(-lift, lift)


def _by_zone(x: torch.Tensor, near: torch.Tensor, core: torch.Tensor, curve, rim_curve, ends: float) -> torch.Tensor:
    """``curve`` (before, after) in the ``core``, ``rim_curve`` elsewhere in what is ``near``; ``x`` beyond."""
    y, rest = x.clone(), near & ~core
    y[rest] = _curve(x[rest], *map(np.array, rim_curve), ends)
    y[core] = _curve(x[core], *map(np.array, curve), ends)
    return y


def _strength(band: torch.Tensor) -> float:
    """Standard deviation of the grain, from the median of its size: borders and whatever else is rare do not count as grain."""
    return 1.4826 * float(band.abs().median())


def _curve(x: torch.Tensor, before: np.ndarray, after: np.ndarray, ends: float) -> torch.Tensor:
    """``before`` → ``after``, linear between, and with the slope ``ends`` beyond."""
    before = np.maximum.accumulate(before) + np.arange(len(before)) * 1e-3
    values = x.numpy()
    y = np.interp(values, before, after)
    y += ends * (np.minimum(values - before[0], 0) + np.maximum(values - before[-1], 0))
    return torch.from_numpy(y.astype(np.float32))


def _gentle(before: tuple[float, ...], after: tuple[float, ...], steepest: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A curve between the quantiles that is nowhere steeper than ``steepest`` and has the mean of ``after``, and its spread if it can."""
    most = steepest * np.diff(before)
    for stretch in STRETCHED:
        gentle = np.concatenate([[0.0], np.cumsum(np.minimum(stretch * np.diff(after), most))])
        if np.std(gentle) >= 0.98 * np.std(after):
            break
    return before, tuple((gentle + np.mean(after) - np.mean(gentle)).tolist())


def _one_way(rim_curve, curve, reference: Texture, ends: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The curve of the rim, but nowhere beyond the core's ``curve`` on the other side than most of the reference's rim lies.

    Muscle fades into fat and lung; where the reference's touches blood full of contrast medium it brightens, but the content's need not.
    """
    before, after = rim_curve
    as_core = _curve(torch.tensor(before), *map(np.array, curve), ends).numpy()
    nearer = np.minimum if np.median(reference.rim) < np.median(reference.quantiles) else np.maximum
    return before, tuple(nearer(after, as_core).tolist())


def _straight(before: tuple[float, ...], reference: Texture) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A line between the ends of two distributions, as a curve (before, after).

    Where nearly all is border, how much lies between blood and lung says how thick the vessels are, which is anatomy and to be kept.
    """
    return (before[0], before[-1]), (min(reference.quantiles[0], reference.rim[0]), max(reference.quantiles[-1], reference.rim[-1]))


def _band_noise(band: int, seed: int, stream: int, start, shape) -> torch.Tensor:
    """The band's share of white noise, each slice afresh; the two coarsest bands come from a lattice of four pixels."""
    cell = CELL if band >= 3 else 1
    low, high = (SIGMAS[band - 1] if band else 0.0) / cell, SIGMAS[band] / cell
    margin = _radius(high) + 1
    begin = [start[0], *(s // cell - margin for s in start[1:])]
    size = [shape[0], *(-(-(s % cell + n) // cell) + 1 + 2 * margin for s, n in zip(start[1:], shape[1:], strict=True))]
    white = white_noise(seed, stream, begin, size)
    x = ((_blurred(white, low) if low else white) - _blurred(white, high))[:, margin:-margin, margin:-margin] / _energy(low, high)
    if cell > 1:
        x = interpolated(x) * COARSE_GAIN[band]
    return x[:, start[1] % cell :, start[2] % cell :][:, : shape[1], : shape[2]]


def _energy(low: float, high: float) -> float:
    """Standard deviation of white noise after the band's filter."""
    radius = _radius(high)
    point = torch.zeros(1, 2 * radius + 1, 2 * radius + 1)
    point[0, radius, radius] = 1
    return float(((_blurred(point, low) if low else point) - _blurred(point, high)).square().sum().sqrt())


def _radius(sigma: float) -> int:
    return int(2.5 * sigma + 0.5)


def _blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of ``sigma`` pixels over each slice (D, H, W); zero beyond."""
    radius = _radius(sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    return _summed(_summed(x, taps, 1), taps, 2)


def _summed(x: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """Convolution along an axis; shifted sums are ten times as fast as ``conv2d`` of a single channel."""
    radius = len(taps) // 2
    wide = F.pad(x, (0, 0, radius, radius) if axis == 1 else (radius, radius))
    size = x.shape[axis]
    result = wide.narrow(axis, 0, size) * float(taps[0])
    for n, tap in enumerate(taps[1:].tolist(), start=1):
        result.add_(wide.narrow(axis, n, size), alpha=tap)
    return result


def _padded(x: torch.Tensor) -> torch.Tensor:
    """Sides of slices brought to multiples of four."""
    return F.pad(x, (0, -x.shape[-1] % CELL, 0, -x.shape[-2] % CELL))


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(_padded(x)[:, None], CELL)[:, 0]
