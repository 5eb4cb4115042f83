"""How a generator's grain is brought to that of a scan.

``--match`` reads from a scan the noise power spectrum of its even soft tissue, and that of the differences between neighbouring slices,
which tells how much they share. The generator is told noise and sharpness, but heeds them only roughly. So the engine lets it draw a piece
of the bundled sample once and measures each of its five kinds of grain (:mod:`noise`) in the same way; their amplitudes are then multiplied
by what brings the sum to the scan's. The factors depend on the request alone, never on the volume being made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from .noise import CHANNELS, band_filters
from .request import Grain
from .spectrum import cross_spectra

LARGEST = torch.tensor([1.4, 1.4, 1.4, 1.4, 0.4])  # logarithms of factors; wider blotches than patches show would grow unseen
FINE = (0, 2)  # the kinds of fine grain: fresh, and shared with the neighbours
RELUCTANCE = 0.003  # how little a factor that helps hardly is wanted
CROP = (10, 256, 256)  # slices and pixels of the sample: liver, spleen and muscle; more than the margin a generator needs
CROP_AT = (22, 12, 72)
MARGIN = 3  # pixels, from the borders of a label
MOST_TAKEN = 4.0
IN_CORNERS = 0.5  # weight of frequencies beyond Nyquist's, which only diagonals have
FLOOR = 0.5  # HU² mm², added to spectra before they are compared: white noise of 1 HU


def measured(slabs: list[tuple[np.ndarray, np.ndarray]], spacing) -> Grain | None:
    """The grain of a scan, None where it has too little even soft tissue.

    Parameters
    ----------
    slabs : list of (hu, even)
        Axial slices (D, H, W) in HU, and where in them soft tissue is even (bool).
    spacing : (i, j, k)
        Millimetres.
    """
    frequency, power = _spectrum(*(np.concatenate(part) for part in zip(*slabs, strict=True)), spacing)
    if not len(power) or not np.isfinite(power).all():
        return None
    changes = [_change(*slab) for slab in slabs]
    change = _spectrum(*(np.concatenate(part) for part in zip(*changes, strict=True)), spacing)[1]
    return Grain(_rounded(frequency, 4), _rounded(power, 2), _rounded(change, 2) if np.isfinite(change).all() else None)


def _spectrum(hu, even, spacing):
    frequency, power = cross_spectra([hu], even, spacing, corners=True)
    return frequency, power[0, 0]


def _change(hu, even):
    """Differences of neighbouring slices, and where both are even."""
    return np.diff(hu.astype(np.float32), axis=0), even[1:] & even[:-1]


def _rounded(values, digits) -> tuple[float, ...]:
    return tuple(round(float(v), digits) for v in values)


@dataclass(frozen=True, eq=False)
class Correction:
    """What is done to the five kinds of grain, everywhere.

    A kind that is too strong is multiplied by its ``factor`` (5,), but loses at most ``MOST_TAKEN`` times the variance in HU² that it loses
    in soft tissue; one that is too weak gets the variance that soft tissue lacks, ``extra`` (5,) in HU². Multiplied without limit, what the
    generator draws by means of its grain, as in bone, would grow or shrink as well. The fine kinds are softened by the share ``soft``.
    """

    factor: torch.Tensor
    extra: torch.Tensor
    soft: float

    def amplitudes(self, amplitude: torch.Tensor, hu_per_unit: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        """Log amplitudes (D, 5, H, W) in network units, corrected.

        ``hu_per_unit`` (D, H, W) is the slope of the HU map; in the air ``outside`` (D, H, W, bool) nothing is added.
        """
        steep = hu_per_unit.square().masked_fill(outside, torch.inf)
        variance = (2 * amplitude.float()).exp()
        for n, (factor, extra) in enumerate(zip(self.factor.tolist(), self.extra.tolist(), strict=True)):
            if factor < 1:
                variance[:, n] = torch.maximum(factor**2 * variance[:, n], variance[:, n] + MOST_TAKEN * extra / steep)
            else:
                variance[:, n] += extra / steep
        return 0.5 * variance.log()

    def noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Unit noise (5, D, H, W) with its fine kinds softened."""
        result = noise.clone()
        for n in FINE:
            result[n] = _softened(noise[n], self.soft) / _spread_of_softened(self.soft)
        return result


def _softened(image: torch.Tensor, share: float) -> torch.Tensor:
    """Slices (D, H, W) filtered along rows and columns by the taps (1, 2, 1) / 4, each time by a ``share``."""
    return sum(weight * part for weight, part in zip(_shares(share), (image, *_blurred(image)), strict=True))


def _shares(share):
    return (1 - share) ** 2, share * (1 - share), share**2


def _blurred(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of what is filtered along rows and along columns, and what is filtered along both; of slices (D, H, W)."""
    kernel = torch.tensor([1.0, 2.0, 1.0], device=image.device) / 4
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
    down, across = kernel[None, None, :, None], kernel[None, None, None, :]
    one = F.conv2d(padded, down)
    return (one[..., 1:-1] + F.conv2d(padded, across)[:, :, 1:-1])[:, 0], F.conv2d(one, across)[:, 0]


@cache
def _spread_of_softened(share: float) -> float:
    """Standard deviation that unit fine grain has after softening by ``share``."""
    return float(_softened(F.pad(band_filters()[0], (2, 2, 2, 2)), share).square().sum().sqrt())


@cache
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The piece of the bundled sample: labels (k, j, i), the tables of tissue and HU over them, and where soft tissue is even (bool)."""
    from .condition import BODY, BODY_HU, CLASS_OF_TISSUE, SOFT
    from .standard_anatomy import standard_anatomy

    anatomy = standard_anatomy()
    labels = np.ascontiguousarray(anatomy.labels[tuple(slice(a, a + n) for a, n in zip(CROP_AT, CROP, strict=True))])
    tissue, hu = np.full(256, BODY), np.full(256, BODY_HU, np.float32)
    tissue[0], hu[0] = 0, -1000
    for u in anatomy.understood:
        tissue[u.segment.value], hu[u.segment.value] = CLASS_OF_TISSUE[u.structure.tissue], u.mean_hu
    x = torch.from_numpy(labels).float()[:, None]
    width = 2 * MARGIN + 1
    same = F.max_pool2d(x, width, 1, MARGIN) == -F.max_pool2d(-x, width, 1, MARGIN)
    return labels, tissue, hu, same[:, 0].numpy() & (tissue == SOFT)[labels]


def correction(wanted: Grain, plain: torch.Tensor, kinds: torch.Tensor, even: np.ndarray, spacing) -> Correction | None:
    """What brings a generator's grain to the grain ``wanted``; None where pixels are so coarse that the sample has no even part.

    Parameters
    ----------
    plain : (D, H, W) HU
        What the generator draws of the sample without grain.
    kinds : (5, D, H, W) HU
        The grain of each kind that it adds.
    even : (D, H, W) bool
        Where spectra are read.
    spacing : (i, j, k)
        Millimetres.
    """
    parts = [part.numpy() for part in (plain, *kinds, *(part for n in FINE for part in _blurred(kinds[n])))]
    frequency = np.array(wanted.frequency)
    own, target = [cross_spectra(parts, even, spacing, corners=True)], [wanted.power]
    if wanted.change is not None:
        changes = [np.diff(part, axis=0) for part in parts]
        own.append(cross_spectra(changes, even[1:] & even[:-1], spacing, corners=True))
        target.append(wanted.change)
    if not all(len(f) and np.isfinite(power).all() for f, power in own):
        return None
    on_grid = [np.apply_along_axis(lambda row, f=f: np.interp(frequency, f, row), 2, power) for f, power in own]
    shared = torch.from_numpy(np.concatenate(on_grid, axis=2)).permute(2, 0, 1)  # (frequencies, parts, parts)
    weight = np.where(frequency <= 0.5 / max(spacing[:2]) + 1e-6, 1.0, IN_CORNERS)
    goal = (torch.from_numpy(np.concatenate(target)) + FLOOR).log()
    factor, soft = _fitted(shared, goal, torch.from_numpy(np.tile(weight, len(target))))
    for n in FINE:
        factor[n] *= _spread_of_softened(soft)
    variance = torch.stack([kind[torch.from_numpy(even)].square().mean() for kind in kinds])
    return Correction(factor, variance * (factor.square() - 1), soft)


def _fitted(shared: torch.Tensor, goal: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Factors (5,) of the kinds, and the softening of the fine ones, that bring the logarithm of the spectra nearest to ``goal``.

    ``weight`` says how much each frequency counts. ``shared`` (frequencies, 10, 10) are the cross spectra of what is drawn without grain,
    the five kinds, and each fine one blurred in one and in both directions.
    """
    x = torch.zeros(CHANNELS + 1, dtype=torch.float64, requires_grad=True)  # log factors, and the logit of the softening
    optimizer = torch.optim.LBFGS([x], max_iter=80, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        factors = torch.minimum(x[:-1], LARGEST).clamp(min=-1.4).exp()
        sharp, *soft = _shares(x[-1].sigmoid())
        weights = [torch.ones(()), *(factor * (sharp if n in FINE else 1) for n, factor in enumerate(factors))]
        weights = torch.stack([*weights, *(factors[n] * share for n in FINE for share in soft)])
        drawn = (torch.einsum("fab,a,b->f", shared, weights, weights).clamp(min=0) + FLOOR).log()
        cost = (weight * (drawn - goal).square()).mean() + RELUCTANCE * x.square().mean()
        cost.backward()
        return cost

    optimizer.step(closure)
    x = x.detach()
    return torch.minimum(x[:-1], LARGEST).clamp(min=-1.4).exp().float(), round(float(x[-1].sigmoid()), 3)
