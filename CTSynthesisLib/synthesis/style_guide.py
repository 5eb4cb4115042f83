"""The second pass of the fast path: one step against a guide that was fixed beforehand.

Calibration slices, restyled (see ``organ_style``), still miss the reference: their Gram matrices A differ from its B. What each pixel has
to do with that is the derivative of equation 6 (paper 001, area-normalised), which reaches the style encoder's features f as (A - B) f.
With A and B taken from the calibration slices once, the same derivative can be had of any image, without measuring it: encoder forwards,
one matrix a structure and layer, encoder backwards. That is the *guide*, and one step against it, as long as served the calibration slices
best, is what this adds. So it is the first step of the slow path, without its look at the image that is made (DESIGN, decision 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..networks.vgg import STYLE_LAYERS
from .mask_cgan import autocast
from .style_features import StyleFeatures, load_encoder, mask_at
from .texture_transfer import faded

OUTSIDE_HU = -1000.0
LAYERS = STYLE_LAYERS[:-1]  # the deepest takes a third of the time and sees twice as far, for 2 of 51 held-out structures
STRIDE = 8  # pixels: the encoder's pooling grid in these
MARGIN = 16  # pixels around a structure that the encoder sees when a reference is measured …
AROUND = 8  # … and, at least, when an image is styled
SLICES = 6  # of a reference whose features are measured
SIZED = 2  # of them on which steps are tried
TRIED = (0.015, 0.06)  # steps, in spreads of the reference's structure
STEPS = np.geomspace(0.002, 0.2, 24)  # among which the best is looked for
AT_ONCE = 4  # slices that are styled together

Grams = dict[int, torch.Tensor]  # {style layer: (N, N)}


@dataclass(frozen=True, eq=False)
class Guide:
    """What is known of a structure's way to the reference.

    ``matrices`` are A - B over N², ``size`` the guide's root mean square on the calibration slices, ``step`` (HU) the step against the
    guide, in its sizes, that brought those slices nearest.
    """

    matrices: Grams
    size: float
    step: float


@dataclass(frozen=True, eq=False)
class Shown:
    """Slices in HU (n, H, W) and {label values of the reference: mask (n, H, W)}."""

    hu: torch.Tensor
    masks: dict[tuple[int, ...], torch.Tensor]

    @classmethod
    def of(cls, hu: np.ndarray, labels: np.ndarray, groups: dict[tuple[int, ...], tuple[int, ...]]) -> Shown:
        """``groups`` says which of the ``labels`` stand for each key. Where nothing is labelled there is air, whatever lies there."""
        masks = {key: torch.from_numpy(np.isin(labels, values)) for key, values in groups.items()}
        return cls(torch.from_numpy(np.where(labels == 0, OUTSIDE_HU, hu).astype(np.float32)), masks)

    def few(self, most: int) -> Shown:
        """At most so many slices, evenly."""
        chosen = np.linspace(0, len(self.hu) - 1, min(most, len(self.hu))).round().astype(int)
        return Shown(self.hu[chosen], {key: mask[chosen] for key, mask in self.masks.items()})


# ------------------------------------------------------------------------------------------------------------ beforehand


def guides_of(features: StyleFeatures, theirs: Shown, ours: Shown, spreads: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], Guide]:
    """The guide of each structure for which ``spreads`` holds the reference's spread in HU; none where it is not shown.

    ``theirs`` are slices of the reference, ``ours`` those that the fast path's first pass made: of the same anatomy, or of a content CT.
    """
    made, wanted = (grams_of(features, shown.hu, shown.masks) for shown in (ours, theirs))
    both = [key for key in spreads if key in made and key in wanted]
    if not both:
        return {}
    matrices = {key: {layer: (made[key][layer] - b) / len(b) ** 2 for layer, b in wanted[key].items()} for key in both}
    few = ours.few(SIZED)
    guide = {}
    for apart in _apart({key: few.masks[key] for key in both}):
        which = torch.full(few.hu.shape, -1)
        for n, key in enumerate(apart):
            which[few.masks[key]] = n
        guide |= dict.fromkeys(apart, _padded_guide(features, few.hu, which, [matrices[key] for key in apart]))
    sizes = {key: _size(guide[key], few.masks[key]) for key in both}
    tried = []
    for step in (0.0, *TRIED):
        hu = few.hu - sum(few.masks[key] * step * spreads[key] * bounded(guide[key] / sizes[key]) for key in both)
        tried.append(grams_of(features, hu, few.masks))
    steps = {key: _best_step([grams.get(key) for grams in tried], made[key], wanted[key]) for key in both}
    return {key: Guide(matrices[key], sizes[key], steps[key] * spreads[key]) for key in both}


def _apart(masks: dict) -> list[list]:
    """The names of ``masks`` in lists of such as do not overlap."""
    result: list[tuple[list, torch.Tensor]] = []
    for name, mask in masks.items():
        for names, taken in result:
            if not (taken & mask).any():
                names.append(name)
                taken |= mask
                break
        else:
            result.append(([name], mask.clone()))
    return [names for names, _ in result]


def _size(guide: torch.Tensor, mask: torch.Tensor) -> float:
    return float((guide[mask] if mask.any() else guide).square().mean().sqrt().clamp(min=1e-12))


def _best_step(tried: list[Grams | None], made: Grams, wanted: Grams) -> float:
    """The step that brings the Gram matrices nearest, if they change by a line and a square of it, known at 0 and the steps ``TRIED``."""
    if any(grams is None for grams in tried):
        return float(STEPS[0])
    (first, second), distance = TRIED, 0
    for layer, target in wanted.items():
        none, short, far = (grams[layer].double() for grams in tried)
        square = ((far - none) / second - (short - none) / first) / (second - first)
        line = (short - none) / first - first * square
        missed = (made[layer] - target).double()
        distance = distance + np.array([float((missed + s * line + s * s * square).square().sum()) for s in STEPS]) / len(target) ** 2
    return float(STEPS[int(np.argmin(distance))])


@torch.no_grad()
def grams_of(features: StyleFeatures, hu: torch.Tensor, masks: dict) -> dict[tuple[int, ...], Grams]:
    """Area-normalised Gram matrices of slices ``hu`` (D, H, W) within each of ``masks``, all slices together, as the slow path's.

    Quicker than those, in the device's fast precision and with each position looked at once. Masks that show nothing are left out.
    """
    total: dict = {}
    for n, x in enumerate(hu):
        shown = {name: mask[n] for name, mask in masks.items() if mask[n].any()}
        if not shown:
            continue
        m = torch.stack(list(shown.values())).any(0)
        box = tuple(slice(max(int(s.min()) - MARGIN, 0), int(s.max()) + MARGIN + 1) for s in (m.any(1).nonzero(), m.any(0).nonzero()))
        inside = torch.stack(list(shown.values()))[:, box[0], box[1]].float()[:, None]  # (S, 1, h, w)
        with autocast("cpu"):
            found = features(x[box][None, None].float(), LAYERS)
        for layer, f in found.items():
            f, share = f[0].flatten(1).float(), mask_at(inside, f)[:, 0].flatten(1)  # (N, positions), (S, positions)
            for name, part in zip(shown, share, strict=True):
                here = part.nonzero()[:, 0]
                weight, of = part[here], f[:, here]
                gram, area = total.get((name, layer), (0, 0))
                total[name, layer] = gram + (of * weight) @ of.T, area + weight.sum()
    names = dict.fromkeys(name for name, _ in total)
    return {name: {layer: total[name, layer][0] / total[name, layer][1].clamp(min=1e-6) for layer in LAYERS} for name in names}


# ------------------------------------------------------------------------------------------------------------ of an image


def step_of(
    hu: np.ndarray,
    labels: np.ndarray,
    styles: list[tuple[tuple[int, ...], float, Guide]],
    origin,
    *,
    between: Callable[[float], None] | None = None,
) -> np.ndarray:
    """What is added to restyled axial slices ``hu`` (k, j, i), in HU; 0 farther than a pixel from the styled structures.

    Parameters
    ----------
    labels : (k, j, i) int array
    styles : list of (label values, strength, Guide)
    origin : (k, j, i)
        World lattice position of the first voxel, which fixes the pooling grid.
    between : callable, optional
        ``between(fraction)`` is called after every few slices and may raise.
    """
    features, result = load_encoder(), np.zeros(hu.shape, np.float32)
    table = np.full(int(labels.max()) + 1, -1)  # which of the styles each label has
    for n, (values, _, _) in enumerate(styles):
        table[[value for value in values if value < len(table)]] = n
    shown = (table >= 0)[labels]
    slices = np.flatnonzero(shown.any((1, 2)))
    if not len(slices):
        return result
    window = tuple(_aligned(shown.any(axes), o) for axes, o in zip(((0, 2), (0, 1)), origin[1:], strict=True))
    beyond = [(max(-w.start, 0), max(w.stop - n, 0)) for w, n in zip(window, hu.shape[1:], strict=True)]
    inner = tuple(slice(max(w.start, 0), min(w.stop, n)) for w, n in zip(window, hu.shape[1:], strict=True))
    kept = tuple(slice(before, w.stop - w.start - after) for (before, after), w in zip(beyond, window, strict=True))
    for first in range(int(slices[0]), int(slices[-1]) + 1, AT_ONCE):
        part = (slice(first, min(first + AT_ONCE, int(slices[-1]) + 1)), *inner)
        x = torch.from_numpy(np.pad(hu[part].astype(np.float32), ((0, 0), *beyond), constant_values=OUTSIDE_HU))
        which = torch.from_numpy(np.pad(table[labels[part]], ((0, 0), *beyond), constant_values=-1))
        present = np.flatnonzero(np.bincount(which.numpy().ravel() + 1, minlength=len(styles) + 1)[1:])
        if not len(present):
            continue
        which = torch.from_numpy(np.searchsorted(present, which.numpy())).where(which >= 0, which)
        given = [styles[n] for n in present]
        guide = guide_of(features, x, which, [guide.matrices for _, _, guide in given])
        steps = _painted([strength * guide.step for _, strength, guide in given], which)
        sizes = _painted([1 / guide.size for _, _, guide in given], which)
        result[part] = (-faded(steps) * bounded(guide * sizes))[(slice(None), *kept)].numpy()
        if between:
            between((part[0].stop - slices[0]) / (slices[-1] + 1 - slices[0]))
    return result


def guide_of(features: StyleFeatures, hu: torch.Tensor, which: torch.Tensor, matrices: list[Grams]) -> torch.Tensor:
    """How much each pixel of slices ``hu`` (D, H, W) changes ½ Σ fᵀ M f, summed over style layers and positions; (D, H, W).

    Blurred by the taps (1, 2, 1) / 4: what the encoder's poolings ask of every other pixel alone would be seen as stripes.

    ``which`` (D, H, W) says of which of the structures, the ``matrices``', each pixel is, or -1; sides are multiples of ``STRIDE``.
    """
    seen = hu[:, None].detach().clone().requires_grad_()
    with torch.enable_grad(), autocast("cpu"):
        found = features(seen, LAYERS)
    with torch.no_grad():
        wanted = [_applied(f, which, [m[layer] for m in matrices]) for layer, f in found.items()]
    (result,) = torch.autograd.grad(list(found.values()), seen, wanted)
    return faded(result[:, 0])


def _applied(f: torch.Tensor, which: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Σ over structures of share · M f at each position of features ``f`` (D, N, h, w), for pixels ``which`` (D, H, W)."""
    lines = f.movedim(1, -1).reshape(-1, f.shape[1])
    result = torch.zeros_like(lines)
    for matrix, (here, share) in zip(matrices, _shares(which, f.shape[-2:], len(matrices)), strict=True):
        if len(here):  # a structure looks only where it is
            more = (lines.index_select(0, here) @ matrix.to(f.dtype)) * share[:, None].to(f.dtype)
            result.index_copy_(0, here, more if which.shape[1:] == f.shape[-2:] else result.index_select(0, here) + more)
    return result.reshape(*f.shape[:1], *f.shape[2:], -1).movedim(-1, 1)


def _shares(which: torch.Tensor, size: tuple[int, int], structures: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each structure the positions, of all (D, *size) in a row, where it is, and what share of them it fills."""
    cell, positions = which.shape[1] // size[0], len(which) * size[0] * size[1]
    if cell == 1:
        order = which.flatten().to(torch.int16).argsort(stable=True)
        parts = order.split(torch.bincount(which.flatten() + 1, minlength=structures + 1).tolist())
        return [(here, torch.ones(len(here))) for here in parts[1:]]
    position = torch.arange(positions).reshape(len(which), *size).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    key = (which + 1) * positions + position
    counts = torch.bincount(key.flatten(), minlength=(structures + 1) * positions).reshape(-1, positions)[1:]
    found = [count.nonzero()[:, 0] for count in counts]
    return [(here, count[here] / cell**2) for here, count in zip(found, counts, strict=True)]


def _padded_guide(features: StyleFeatures, hu: torch.Tensor, which: torch.Tensor, matrices: list[Grams]) -> torch.Tensor:
    """``guide_of`` of slices of any size."""
    height, width = hu.shape[1:]
    beyond = (0, -width % STRIDE, 0, -height % STRIDE)
    hu, which = F.pad(hu, beyond, value=OUTSIDE_HU), F.pad(which, beyond, value=-1)
    return guide_of(features, hu, which, matrices)[:, :height, :width]


def bounded(guide: torch.Tensor) -> torch.Tensor:
    """A guide in its sizes, between -3 and 3."""
    return 3 * torch.tanh(guide / 3)


def _painted(values: list[float], which: torch.Tensor) -> torch.Tensor:
    """The ``values`` of the structures where they are, 0 elsewhere (``which`` is -1)."""
    return torch.tensor([*values, 0.0])[which]


def _aligned(line: np.ndarray, origin: int) -> slice:
    """A span around what ``line`` shows that begins and ends on the pooling grid of the world; it may reach beyond the image."""
    shown = np.flatnonzero(line)
    low, high = int(shown[0]) - AROUND + origin, int(shown[-1]) + 1 + AROUND + origin
    return slice(low // STRIDE * STRIDE - origin, -(-high // STRIDE) * STRIDE - origin)
