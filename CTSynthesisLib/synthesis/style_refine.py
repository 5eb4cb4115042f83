"""The slow path: the image itself is optimised against the losses of paper 001, starting from the fast result, slab by slab.

Style is equation 6 over a slab of slices together, each Gram matrix divided by the segment's area; the sum of the segments' logarithms
falls, so that each comes nearer by the same share whatever is left of it. Content is equation 7 against the fast result. Left to these
two, an image draws what the network's filters answer to most: stripes two or three pixels wide, and clouds. So

- what is added is a sum of lattices 1 to 8 pixels apart, each bounded by what the reference's texture shows at that size, and one number a
  segment, its mean (coarse lattices reach the deep layers in few steps, which single pixels do not);
- the energy of each fine wavelet band around each place, in either direction, stays near what the fast path made it: stripes are not grain;
- mean and spread of each segment's interior are drawn to the reference's, by as much in each slab as the whole volume lacks;
- neighbouring slices change alike, also across slabs, and each slab starts from what the last one found on the coarse lattices.

Voxels beyond the styled structures' margin are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..networks.vgg import CONTENT_LAYERS, STYLE_LAYERS
from ..volume import LabelMap, reorder, restore
from .mask_cgan import autocast
from .style_features import StyleFeatures, load_features, mask_at, normalised_gram
from .style_reference import FEWEST_VOXELS, Chosen, Kept, Reference, digest, slabs_of
from .texture_transfer import FILLED, faded, interior, measure

SLAB = 4  # slices that are optimised together
LEVELS = {1: 1.25, 2: 2.0, 4: 1.0, 8: 0.5}  # pixels between points of a lattice, and its bound in spreads of the reference's band
CARRIED = 4  # pixels: lattices from here on start from the slab before; a finer one would drag a pattern through the slices
RATE, SHIFT_RATE, LAST = 0.2, 2.0, 0.125  # Adam's steps, of bounds and of a mean in HU, and what is left of both at the end
CONTENT_WEIGHT, COHERENCE_WEIGHT, GRAIN_WEIGHT = 0.1, 0.15, 1.5
MEAN_WEIGHT, MEAN_SCALE = 0.2, 10.0  # HU
NARROW_WEIGHT, WIDE_WEIGHT, SPREAD_SCALE, SPREAD_FREE = 0.01, 0.2, 0.16, 0.13  # of log ratios of spreads
CHANGE_SCALE = 20.0  # HU: differences between slices are measured in it
GRAIN_WINDOW, GRAIN_RANGE, GRAIN_FLOOR = 8, (-0.4, 0.1), 4.0  # pixels; log of energies; HU²: less is no grain
ENOUGH = 0.02  # of a segment's first distance: from here on it weighs less
MARGIN = 16  # pixels around the styled structures that the network sees
GRID = 16  # pixels: windows begin on it, so that lattices meet
FEWEST = 50  # voxels of a structure in a slab
MEASURED = 12  # slices of the fast result whose bands are measured
AIR, DENSE, COVERS = -1000.0, -300.0, 0.9
_targets = Kept(4)  # of references: some megabytes each


@dataclass(frozen=True, eq=False)
class Target:
    """What a structure is to come near: Gram matrices {style layer: (N, N)}, (mean, spread) in HU of all of it and of its interior, if it
    has any, and the strength of its grain by octave band in HU."""

    grams: dict[int, torch.Tensor]
    whole: tuple[float, float]
    inner: tuple[float, float] | None
    bands: tuple[float, ...]


def refine(
    hu: np.ndarray,
    labelmap: LabelMap,
    chosen: tuple[Chosen, ...],
    reference: Reference,
    *,
    steps: int,
    between: Callable[[float], None] | None = None,
    features: StyleFeatures | None = None,
) -> np.ndarray:
    """``hu`` (k, j, i) after ``steps`` steps for each slab, int16. ``between(fraction)`` is called after each step and may raise."""
    features = features or load_features()
    geometry = labelmap.geometry
    axes, flips = geometry.anatomical_axes
    image = np.ascontiguousarray(reorder(hu, axes, flips)).astype(np.float32)
    labels = np.ascontiguousarray(reorder(labelmap.array, axes, flips))
    groups, spacing = sorted({one.values for one in chosen}), geometry.reordered(axes, flips).spacing
    key = digest(reference.digest, spacing, groups, features.name)
    targets = _targets.get(key, lambda: targets_of(features, reference, groups, spacing))
    chosen = [one for one in chosen if one.values in targets and one.strength > 0]
    shown = np.flatnonzero(np.isin(labels, [one.item.segment.value for one in chosen]).any((1, 2)))
    firsts = range(int(shown[0]), int(shown[-1]) + 1, SLAB) if len(shown) else ()
    result, seen, carried = image.copy(), shown_alone(image, labels), _Carried(image.shape[1:])
    structures = {}  # segments of one style are one structure
    for one in chosen:
        structures.setdefault(one.values, []).append(one.item.segment.value)
    masks = {values: np.isin(labels, those) for values, those in structures.items()}
    wanted = {values: _Wanted.of(image, mask, targets[values]) for values, mask in masks.items() if mask.any()}
    for n, first in enumerate(firsts):
        window = (slice(first, min(first + SLAB, int(shown[-1]) + 1)), *_box(labels[first : first + SLAB], chosen))

        def tick(part, n=n):
            if between:
                between((n + part) / len(firsts))

        result[window] += _optimised(features, seen[window], labels[window], chosen, wanted, steps, carried, window[1:], tick)
    rounded = np.where(result == image, image, np.clip(np.rint(result), -1024, 3071)).astype(np.int16)
    return np.ascontiguousarray(restore(rounded, axes, flips))


def shown_alone(hu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``hu`` with air where nothing is labelled, if the labels cover the body: tables and clothes are nobody's style."""
    dense = hu > DENSE
    covers = (labels[dense] > 0).sum() >= COVERS * dense.sum()
    return np.where(labels == 0, AIR, hu).astype(np.float32) if covers else hu


def targets_of(features: StyleFeatures, reference: Reference, groups, spacing) -> dict[tuple[int, ...], Target]:
    """The target of each group of the reference's label values that it shows enough of."""
    shown = slabs_of(reference.scan, reference.labelmap, groups, spacing)
    hu = torch.from_numpy(shown_alone(shown.hu, shown.labels))
    masks = {values: torch.from_numpy(np.isin(shown.labels, values)) for values in groups}
    masks = {values: mask for values, mask in masks.items() if mask.sum() >= FEWEST_VOXELS}
    result = {}
    for values, grams_of in grams_each(features, hu, masks).items():
        mask = masks[values]
        rows, columns = (slice(int(s.min()), int(s.max()) + 1) for s in (mask.any(0).any(1).nonzero(), mask.any(0).any(0).nonzero()))
        texture = measure(hu[:, rows, columns].contiguous(), mask[:, rows, columns].contiguous(), firsts=shown.firsts)
        whole = float(hu[mask].mean()), float(hu[mask].std())
        inner = (texture.mean, texture.spread) if interior(mask) is not mask else None
        result[values] = Target(grams_of, whole, inner, texture.bands)
    return result


def grams(features: StyleFeatures, hu: torch.Tensor, mask: torch.Tensor) -> dict[int, torch.Tensor]:
    """Area-normalised Gram matrices {style layer: (N, N)} of slices ``hu`` (D, H, W) within ``mask`` (bool), all slices together."""
    return grams_each(features, hu, {"": mask})[""]


@torch.no_grad()
def grams_each(features: StyleFeatures, hu: torch.Tensor, masks: dict) -> dict:
    """The same for several ``masks``, {name: grams}; each slice goes through the network once. Masks that show nothing are left out."""
    total: dict = {}
    area: dict = {}
    for n, x in enumerate(hu):
        shown = {name: mask[n] for name, mask in masks.items() if mask[n].any()}
        if shown:
            m = torch.stack(list(shown.values())).any(0)
            box = tuple(slice(max(int(s.min()) - MARGIN, 0), int(s.max()) + MARGIN + 1) for s in (m.any(1).nonzero(), m.any(0).nonzero()))
            for layer, f in features(x[box][None, None].float(), STYLE_LAYERS).items():
                for name, m in shown.items():
                    inside = m[box][None, None].float()
                    share = mask_at(inside, f).sum()
                    total[name, layer] = total.get((name, layer), 0) + normalised_gram(f, inside)[0] * share
                    area[name, layer] = area.get((name, layer), 0) + share
    shown = dict.fromkeys(name for name, _ in total)
    return {name: {layer: total[name, layer] / area[name, layer] for layer in STYLE_LAYERS} for name in shown}


def gram_distance(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> float:
    """Equation 6 for one segment, area-normalised: Σ over style layers of 1 / (4 N²) · ‖A - B‖²_F for second moments A and B."""
    return sum(float((one[layer] - other[layer]).square().sum()) / (4 * len(other[layer]) ** 2) for layer in other)


@dataclass(frozen=True)
class _Wanted:
    """A structure's target, whether its interior counts or all of it, and what the whole volume lacks of the target's mean (HU) and
    spread (a ratio). Were each slab drawn to the target itself, organs would change their HU where slabs meet.

    ``bands`` are the strengths (HU) by octave that bound what is added: the reference's, where it is grain; of what is coarser, no more
    than the fast result has: what that lacks is anatomy, and clouds are none."""

    target: Target
    interior: bool
    more: float
    wider: float
    bands: tuple[float, ...]

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray, target: Target) -> _Wanted:
        inner = interior(torch.from_numpy(mask)).numpy()
        counts = target.inner is not None and (inner != mask).any()
        mean, spread = target.inner if counts else target.whole
        inside = image[inner if counts else mask]
        few = np.flatnonzero(mask.any((1, 2)))[:: max(int(mask.any((1, 2)).sum()) // MEASURED, 1)]
        own = measure(torch.from_numpy(image[few]), torch.from_numpy(mask[few])).bands
        grain = FILLED - 1
        bands = (*target.bands[:grain], *(min(both) for both in zip(target.bands[grain:], own[grain:], strict=True)))
        return cls(target, counts, mean - float(inside.mean()), max(spread, 1e-3) / max(float(inside.std()), 1e-3), bands)


class _Carried:
    """What the slab before leaves: the change of its last slice, and the coarse lattices' values there."""

    def __init__(self, shape):
        self.change: torch.Tensor | None = None
        self._shape, self.shifts = shape, {}
        self._lattices = {level: torch.zeros(_points(shape, level)) for level in LEVELS if level >= CARRIED}

    def at(self, level: int, window) -> torch.Tensor:
        """The values (h, w) of a lattice in a window that begins on ``GRID``; 0 for those that are not carried."""
        size = _points([w.stop - w.start for w in window], level)
        if level not in self._lattices:
            return torch.zeros(size)
        rows, columns = (w.start // level for w in window)
        return self._lattices[level][rows : rows + size[0], columns : columns + size[1]].clone()

    def keep(self, change: torch.Tensor, lattices: dict[int, torch.Tensor], shifts: dict, window) -> None:
        self.change, self.shifts = torch.zeros(self._shape), self.shifts | shifts
        self.change[window] = change[-1]
        for level in self._lattices:
            values = lattices[level][-1]
            rows, columns = (w.start // level for w in window)
            self._lattices[level].zero_()[rows : rows + values.shape[0], columns : columns + values.shape[1]] = values


def _means(x: torch.Tensor) -> torch.Tensor:
    """Of each 4 × 4 pixels of slices (D, H, W)."""
    return F.avg_pool2d(x[:, None], CARRIED, ceil_mode=True, count_include_pad=False)[:, 0]


def _points(shape, level: int) -> tuple[int, int]:
    return tuple(-(-n // level) for n in shape)


def _box(labels, chosen):
    mask = np.isin(labels, [one.item.segment.value for one in chosen])
    spans = (np.flatnonzero(mask.any(others)) for others in ((0, 2), (0, 1)))
    starts_stops = [(max(int(s[0]) - MARGIN, 0) // GRID * GRID, int(s[-1]) + MARGIN + 1) if len(s) else (0, 2 * MARGIN) for s in spans]
    return tuple(slice(a, min(b, n)) for (a, b), n in zip(starts_stops, labels.shape[1:], strict=True))


def _optimised(
    features, fast, labels, chosen, wanted: dict[tuple[int, ...], _Wanted], steps, carried: _Carried, window, tick
) -> np.ndarray:
    """What is to be added to the slab ``fast`` (D, H, W) in the ``window`` of its slices."""
    of = {values: [one.item.segment.value for one in chosen if one.values == values] for values in wanted}
    masks = {values: torch.from_numpy(np.isin(labels, those)) for values, those in of.items()}
    masks = {values: mask for values, mask in masks.items() if mask.sum() >= FEWEST}
    if not masks:
        return np.zeros(fast.shape, np.float32)
    slab = _Slab(features, torch.from_numpy(fast), masks, [wanted[values] for values in masks], carried, window)
    optimizer = torch.optim.Adam([{"params": list(slab.lattices.values())}, {"params": [slab.shifts]}], betas=(0.5, 0.9))
    for step in range(steps):
        share = LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in zip(optimizer.param_groups, (RATE, SHIFT_RATE), strict=True):
            group["lr"] = rate * share
        optimizer.zero_grad()
        slab.backward()
        optimizer.step()
        tick((step + 1) / steps)
    with torch.no_grad():
        change = slab.change()
        carried.keep(change, slab.lattices, dict(zip(masks, slab.shifts.detach().clone(), strict=True)), window)
        strength = torch.zeros_like(slab.fade)
        for one in chosen:
            if one.values in masks:
                strength += one.strength * faded(torch.from_numpy(labels == one.item.segment.value).float())
        return (strength.clamp(max=1) / slab.fade.clamp(min=1e-6) * change).numpy()


class _Slab:
    """Slices (D, H, W) that are optimised: ``lattices`` {level: (D, h, w)}, of their bounds, and ``shifts`` (structures), in HU."""

    def __init__(self, features, fast: torch.Tensor, masks: dict, wanted: list[_Wanted], carried: _Carried, window):
        self.features, self.fast, self.targets = features, fast, [one.target for one in wanted]
        self.bands = [one.bands for one in wanted]
        inside = torch.stack(list(masks.values())).float()  # (structures, D, H, W)
        self.fades = torch.stack([faded(mask) for mask in inside])
        self.fade = self.fades.sum(0).clamp(max=1)
        self.before = None if carried.change is None else carried.change[window]
        self.lattices = {level: carried.at(level, window).repeat(len(fast), 1, 1).requires_grad_() for level in LEVELS}
        shifts = [carried.shifts.get(values, one.more) for values, one in zip(masks, wanted, strict=True)]
        self.shifts = torch.tensor([float(shift) for shift in shifts], requires_grad=True)
        self.bounds = {level: far * self._painted(inside, level) for level, far in LEVELS.items()}
        self.measured = []  # of each structure: the pixels whose mean and spread count, and which these shall be
        for mask, one in zip(masks.values(), wanted, strict=True):
            pixels = interior(mask) if one.interior else mask
            hu = fast[pixels]
            self.measured.append((pixels, float(hu.mean()) + one.more, max(float(hu.std()), 1.0) * one.wider))
        share = F.avg_pool2d(torch.stack([m for m, _, _ in self.measured]).any(0)[:, None].float(), GRAIN_WINDOW, GRAIN_WINDOW // 2)
        self.grained = share * (share > 0.5)
        with torch.no_grad():
            self.energies = grain_energies(fast)
            found = self._seen(fast[:, None])
        self.content = {layer: found[layer] for layer in CONTENT_LAYERS}
        self.where = {layer: self._positions(inside, found[layer].shape[-2:]) for layer in STYLE_LAYERS}
        self.first: torch.Tensor | None = None

    def change(self) -> torch.Tensor:
        """HU that are added (D, H, W). The fine lattices add no clouds: their own local mean is taken away."""
        fine, coarse = torch.zeros_like(self.fast), (self.shifts[:, None, None, None] * self.fades).sum(0)
        for level, values in self.lattices.items():
            part = self.bounds[level] * torch.tanh(values)
            part = self.fade * (self._spread_out(part, level) if level > 1 else part)
            fine, coarse = (fine + part, coarse) if level < CARRIED else (fine, coarse + part)
        share = _means(self.fade).clamp(min=1e-3)
        return fine - self.fade * self._spread_out(_means(fine) / share, CARRIED) + coarse

    def _spread_out(self, points: torch.Tensor, level: int) -> torch.Tensor:
        """A lattice's values (D, h, w) at every pixel (D, H, W)."""
        height, width = self.fast.shape[1:]
        return F.interpolate(points[:, None], scale_factor=level, mode="bilinear", align_corners=False)[:, 0, :height, :width]

    def backward(self) -> None:
        """Gradients of the loss with respect to ``lattices`` and ``shifts``."""
        change = self.change()
        image = self.fast + change
        ((image * self._towards_reference(image.detach())).sum() + self._rest(image, change)).backward()

    def _towards_reference(self, image: torch.Tensor) -> torch.Tensor:
        """The gradient (D, H, W) of style and content. Equation 6 reaches the features f of a position as (A - B) f, so that nothing of
        it but the network has to be differentiated."""
        seen = image[:, None].requires_grad_()
        found = self._seen(seen)
        with torch.no_grad():
            missed, distances = {}, torch.zeros(len(self.targets))
            for layer in STYLE_LAYERS:
                lines = found[layer].movedim(1, -1).flatten(0, 2)  # (D·h·w, N)
                for n, ((where, share, area), target) in enumerate(zip(self.where[layer], self.targets, strict=True)):
                    here = lines.index_select(0, where)
                    own = here.float()
                    difference = (own * share).T @ own / area - target.grams[layer]
                    distances[n] += difference.square().sum() / (4 * len(difference) ** 2)
                    missed[layer, n] = here, difference / (len(difference) ** 2 * area)
            if self.first is None:
                self.first = distances.clamp(min=1e-6)
            weights = 1 / (distances + ENOUGH * self.first) / len(distances)
            wanted = []
            for layer in STYLE_LAYERS:
                f = found[layer]
                total = torch.zeros(f.shape[0] * f.shape[2] * f.shape[3], f.shape[1], dtype=f.dtype)
                for n, (where, share, _) in enumerate(self.where[layer]):
                    here, difference = missed[layer, n]
                    total.index_add_(0, where, here @ (weights[n] * difference).to(f.dtype) * share.to(f.dtype))
                wanted.append(total.unflatten(0, (f.shape[0], *f.shape[2:])).movedim(-1, 1))
            for layer, of in self.content.items():
                wanted.append((2 * CONTENT_WEIGHT * (found[layer].float() - of.float()) / of.float().square().sum()).to(of.dtype))
        (gradient,) = torch.autograd.grad([found[layer] for layer in (*STYLE_LAYERS, *CONTENT_LAYERS)], seen, wanted)
        return gradient[:, 0]

    def _rest(self, image: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Grain that stays grain, mean and spread of each structure, likeness of neighbouring slices."""
        low, high = GRAIN_RANGE
        loss = 0
        for now, before in zip(grain_energies(image), self.energies, strict=True):
            ratio = torch.log(now / before)
            loss = loss + GRAIN_WEIGHT * (self.grained * (ratio - ratio.clamp(low, high)).square()).sum() / self.grained.sum().clamp(min=1)
        for pixels, mean, spread in self.measured:
            inside = image[pixels]
            ratio = torch.log(inside.std() / spread)
            beyond = ratio - ratio.clamp(-SPREAD_FREE, SPREAD_FREE)
            weight = WIDE_WEIGHT if beyond > 0 else NARROW_WEIGHT
            both = MEAN_WEIGHT * ((inside.mean() - mean) / MEAN_SCALE).square() + weight * (beyond / SPREAD_SCALE).square()
            loss = loss + both / len(self.measured)
        unlike = (self.fade[1:] * ((change[1:] - change[:-1]) / CHANGE_SCALE).square()).sum()
        if self.before is not None:
            unlike = unlike + (self.fade[0] * ((change[0] - self.before) / CHANGE_SCALE).square()).sum()
        return loss + COHERENCE_WEIGHT * unlike / self.fade.sum()

    def _seen(self, hu: torch.Tensor) -> dict[int, torch.Tensor]:
        with autocast("cpu"):
            return self.features(hu)

    def _painted(self, inside: torch.Tensor, level: int) -> torch.Tensor:
        """The strength that bounds each structure in the band of a lattice (HU), on its points (D, h, w)."""
        spreads = torch.tensor([max(bands[int(math.log2(level))], 1.0) for bands in self.bands])
        painted, share = (spreads[:, None, None, None] * inside).sum(0), inside.sum(0)
        around = faded if level == 1 else lambda x: F.avg_pool2d(x[:, None], level, ceil_mode=True, count_include_pad=False)[:, 0]
        return around(painted) / around(share).clamp(min=1e-3)

    @staticmethod
    def _positions(inside: torch.Tensor, size) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Where in a layer each structure is, by how much (n, 1), and its area there."""
        shares = F.adaptive_avg_pool2d(inside, size).flatten(1)
        return [(where, share[where, None], share.sum()) for share in shares for where in (share.nonzero()[:, 0],)]


def grain_energies(image: torch.Tensor) -> list[torch.Tensor]:
    """Mean squares in windows of 8 pixels (D, 1, h, w) of three wavelet bands (along rows, along columns, both) at two scales.

    The transform is the undecimated one of the taps (1, 2, 1) / 4, so that 2-8 pixels wide stripes show in one band of either scale.
    """
    result = []
    for apart in (1, 2):
        rows = _smooth(image, apart)
        both = _smooth(rows.mT, apart).mT
        fine = image - rows
        across = _smooth(fine.mT, apart).mT
        for band in (rows - both, across, fine - across):
            result.append(F.avg_pool2d(band.square()[:, None], GRAIN_WINDOW, GRAIN_WINDOW // 2) + GRAIN_FLOOR)
        image = both
    return result


def _smooth(image: torch.Tensor, apart: int) -> torch.Tensor:
    """(1, 2, 1) / 4 along the rows' axis of (D, H, W), pixels ``apart``; the first and last ones go on beyond the border."""
    padded = torch.cat([*[image[:, :1]] * apart, image, *[image[:, -1:]] * apart], 1)
    return (padded[:, : -2 * apart] + 2 * image + padded[:, 2 * apart :]) / 4
