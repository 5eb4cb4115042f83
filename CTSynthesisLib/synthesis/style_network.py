"""The style network in use: what it is told of a reference, what it is shown of an image, and what it adds.

What it is told of a structure is computed once a reference: Gram matrices and means of the style encoder's features in the reference, and
how far the calibration slices, restyled (see ``organ_style``), miss them. What it is shown is the restyled image and its *guide*: the way
in which each pixel would have to change for features to lose what the calibration slices had too much of. The matrices in it are those of
the calibration, so the image that is made is never measured (DESIGN, decision 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..anatomy import Tissue, understand
from ..modelstore import load_card, load_into, models
from ..networks.style_unet import StyleUNet, StyleUNetConfig
from ..networks.vgg import STYLE_LAYERS
from ..regions import REGIONS
from .condition import BODY, CLASS_OF_TISSUE, CLASSES
from .mask_cgan import compute_dtype
from .noise import CELL, lattice_noise
from .style_features import StyleFeatures, ct_windows, load_features, mask_at
from .texture_transfer import Texture, faded, measure

MODEL = "style_network"
MARGIN = 16  # pixels around a structure that the encoder sees
NOISE = (0, 1)  # channels of the lattice noise
INPUTS = 3 + 2 * 2 + 1 + len(NOISE) + CLASSES + 1
OUTSIDE_HU = -1000.0


KINDS = torch.zeros(256, dtype=torch.long)  # class of each value of a region map
for _u in understand(REGIONS):
    KINDS[_u.segment.value] = CLASS_OF_TISSUE[_u.structure.tissue]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of one structure's features in some slices: means {layer: (N,)} and Gram matrices over the area {layer: (N, N)}."""

    means: dict[int, torch.Tensor]
    grams: dict[int, torch.Tensor]

    def logs(self) -> torch.Tensor:
        """Logarithms of means and root mean squares of all layers (2·Σ N,)."""
        roots = [gram.diagonal().clamp(min=0).sqrt() for gram in self.grams.values()]
        return (torch.cat([*self.means.values(), *roots]) + 0.05).log()


@dataclass(frozen=True, eq=False)
class Told:
    """What the network is told of a structure.

    ``matrices`` are those of its guide, ``size`` the guide's root mean square on the calibration slices, ``step`` the step against it, in
    ``spread`` (HU, the reference's), that brought those slices nearest.
    """

    statistics: torch.Tensor
    matrices: dict[int, torch.Tensor]
    size: float
    step: float
    spread: float


def autocast():
    precision = compute_dtype("cpu")
    return torch.autocast("cpu", precision, enabled=precision != torch.float32)


@torch.no_grad()
def moments_each(features: StyleFeatures, hu: torch.Tensor, masks: dict) -> dict:
    """:class:`Moments` of slices ``hu`` (D, H, W) within each of ``masks``, {name: (D, H, W) bool}; what shows nothing is left out."""
    total: dict = {}
    for n, x in enumerate(hu):
        shown = {name: mask[n] for name, mask in masks.items() if mask[n].any()}
        if not shown:
            continue
        m = torch.stack(list(shown.values())).any(0)
        box = tuple(slice(max(int(s.min()) - MARGIN, 0), int(s.max()) + MARGIN + 1) for s in (m.any(1).nonzero(), m.any(0).nonzero()))
        inside = torch.stack(list(shown.values()))[:, box[0], box[1]].float()[:, None]  # (S, 1, h, w)
        with autocast():
            found = features(x[box][None, None].float(), STYLE_LAYERS)
        for layer, f in found.items():
            share = mask_at(inside, f)[:, 0].flatten(1)  # (S, positions)
            f = f[0].flatten(1).float()  # (N, positions)
            for name, part in zip(shown, share, strict=True):
                here = part > 0
                weight, of = part[here], f[:, here]
                sums = total.setdefault((name, layer), [0, 0, 0])
                for i, more in enumerate((of @ weight, (of * weight) @ of.T, weight.sum())):
                    sums[i] = sums[i] + more
    names = dict.fromkeys(name for name, _ in total)
    area = {key: sums[2].clamp(min=1e-6) for key, sums in total.items()}
    return {
        name: Moments(*({layer: total[name, layer][i] / area[name, layer] for layer in STYLE_LAYERS} for i in (0, 1))) for name in names
    }


def gram_within(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Gram matrix (N, N) of features (B, N, h, w) of all slices together within ``mask`` (B, H, W), over its area."""
    share = mask_at(mask[:, None], features)
    weighted = (features * share.sqrt()).transpose(0, 1).flatten(1)  # (N, B·h·w)
    return weighted @ weighted.T / share.sum().clamp(min=1e-6)


def guide_of(features: StyleFeatures, hu: torch.Tensor, masks: torch.Tensor, matrices: list[dict[int, torch.Tensor]]) -> torch.Tensor:
    """How each pixel of slices ``hu`` (D, H, W) changes ½ Σ fᵀ M f, summed over style layers and positions; (D, H, W).

    ``masks`` (D, S, H, W) are the structures', ``matrices`` one {layer: M} each.
    """
    seen = hu[:, None].detach().clone().requires_grad_()
    with torch.enable_grad(), autocast():
        found = features(seen, STYLE_LAYERS)
    with torch.no_grad():
        wanted = [_against(f, masks, [m[layer] for m in matrices]) for layer, f in found.items()]
    (result,) = torch.autograd.grad(list(found.values()), seen, wanted)
    return result[:, 0]


def _against(f: torch.Tensor, masks: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Σ over structures of share · M f at each position of features ``f`` (D, N, h, w); only where a structure is, each is looked at."""
    shares = F.avg_pool2d(masks, masks.shape[-1] // f.shape[-1]).movedim(1, 0).flatten(1)  # (S, positions)
    lines = f.movedim(1, -1).reshape(-1, f.shape[1])
    result = torch.zeros_like(lines)
    for share, matrix in zip(shares, matrices, strict=True):
        here = share.nonzero()[:, 0]
        result.index_add_(0, here, (lines[here] @ matrix.to(f.dtype)) * share[here, None].to(f.dtype))
    return result.reshape(*f.shape[:1], *f.shape[2:], -1).movedim(-1, 1)


def _guided(features: StyleFeatures, hu: torch.Tensor, masks: torch.Tensor, matrices) -> torch.Tensor:
    """``guide_of`` of slices whose sides are no multiples of 16."""
    height, width = hu.shape[1:]
    beyond = (0, -width % MARGIN, 0, -height % MARGIN)
    return guide_of(features, F.pad(hu, beyond, value=OUTSIDE_HU), F.pad(masks, beyond), matrices)[:, :height, :width]


def _boxed(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = (mask.any(0).any(axis).nonzero() for axis in (1, 0))
    window = (slice(None), *(slice(max(int(s.min()) - 2, 0), int(s.max()) + 3) for s in (rows, columns)))
    return x[window].contiguous(), mask[window].contiguous()


def difference(calibrated: Moments, reference: Moments) -> dict[int, torch.Tensor]:
    """The matrices M of a guide: derivative of equation 6, area-normalised, by the Gram matrices; relative to the distance itself."""
    parts = {layer: (calibrated.grams[layer] - gram) / len(gram) ** 2 for layer, gram in reference.grams.items()}
    distance = sum(float(m.square().sum()) * len(m) ** 2 for m in parts.values()) / 4
    return {layer: m / max(distance, 1e-4) for layer, m in parts.items()}


def described(reference: Moments, calibrated: Moments, texture: Texture, made: Texture, tissue: Tissue, step: float) -> torch.Tensor:
    """The statistics of a structure: moments of the reference and what the calibration slices lack, both textures in HU, the tissue."""
    logs = reference.logs()
    theirs, ours = _figures(texture), _figures(made)
    kind = F.one_hot(torch.tensor(CLASS_OF_TISSUE[tissue]), CLASSES).float()
    steps = torch.tensor([np.log(step) + 3], dtype=torch.float32)
    return torch.cat([0.5 * logs, 2 * (logs - calibrated.logs()), theirs, 4 * (theirs - ours), kind, steps])


def _figures(texture: Texture) -> torch.Tensor:
    spreads = np.log(np.maximum([texture.spread, *texture.bands], 0.5)) - 3
    return torch.tensor([texture.mean / 300, *spreads], dtype=torch.float32)


def planes(hu: torch.Tensor, guide: torch.Tensor, tissues: torch.Tensor, chosen: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the network is shown (D, INPUTS, H, W): slices and their neighbours, guide, noise, tissue, choice.

    ``hu`` is (D + 2, H, W), with a neighbour at either end; ``guide`` (D, H, W) is :func:`bounded`; ``tissues`` (D, H, W) are classes of
    ``synthesis.condition``; ``chosen`` (D, H, W) says where a structure is styled; ``noise`` is (N, D, H, W).
    """
    x = ct_windows(hu[:, None])
    here, beside = x[1:-1], x[:, :2]
    kinds = (tissues[:, None] == torch.arange(CLASSES)[:, None, None]).float()
    steps = [3 * (neighbour - beside[1:-1]) for neighbour in (beside[:-2], beside[2:])]
    parts = [here, *steps, guide[:, None] / 3, noise.transpose(0, 1), kinds, chosen[:, None].float()]
    return torch.cat(parts, 1).contiguous(memory_format=torch.channels_last)


def bounded(guide: torch.Tensor) -> torch.Tensor:
    """A guide in its sizes, between -3 and 3."""
    return 3 * torch.tanh(guide / 3)


def painted(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """``values`` (S,) where the structures are: (D, H, W) from masks (D, S, H, W) that do not overlap."""
    return (where * values[:, None, None]).sum(1)


def noise_of(seed: int, start, shape) -> torch.Tensor:
    """Noise (2, D, H, W) of the world; ``start``'s j and i are multiples of ``CELL``."""
    assert start[1] % CELL == 0 and start[2] % CELL == 0
    return lattice_noise(seed, start, shape)[list(NOISE)]


SLICES = 6  # of a reference whose features are measured
SIZED = 2  # of them on which guides are measured
TRIED = (0.015, 0.06)  # steps against a guide
STEPS = np.geomspace(0.002, 0.2, 24)
AT_ONCE = 4  # slices that go through the network together
AROUND = 8  # pixels around the styled structures that it sees


def told_of(features: StyleFeatures, theirs: Shown, ours: Shown, groups: dict) -> dict[tuple[int, ...], Told]:
    """What the network is told of each group of a reference's label values.

    Parameters
    ----------
    theirs, ours : Shown
        Slices of the reference, and those made by the fast path before; of the same anatomy unless the content is a CT.
    groups : {label values: (Texture of the reference, Tissue)}
    """
    calibrated, reference = (moments_each(features, shown.few().hu, shown.few().masks) for shown in (ours, theirs))
    both = [values for values in groups if values in calibrated and values in reference]
    matrices = {values: difference(calibrated[values], reference[values]) for values in both}
    few = ours.few(SIZED)
    if not both:
        return {}
    guide = _guided(features, few.hu, torch.stack([few.masks[values] for values in both], 1).float(), list(matrices.values()))
    sizes = {values: _size(guide, few.masks[values]) for values in both}
    spreads = {values: max(groups[values][0].spread, 5.0) for values in both}
    tried = [moments_each(features, _stepped(few, guide, sizes, spreads, step), few.masks) for step in (0.0, *TRIED)]
    result = {}
    for values in both:
        texture, tissue = groups[values]
        step = _best_step([moments.get(values) for moments in tried], calibrated[values], reference[values])
        made = measure(*_boxed(ours.few().hu, ours.few().masks[values]), firsts=range(SLICES))
        statistics = described(reference[values], calibrated[values], texture, made, tissue, step)
        result[values] = Told(statistics, matrices[values], sizes[values], step, spreads[values])
    return result


def _size(guide: torch.Tensor, mask: torch.Tensor) -> float:
    return float((guide[mask] if mask.any() else guide).square().mean().sqrt().clamp(min=1e-6))


def _stepped(few: Shown, guide: torch.Tensor, sizes: dict, spreads: dict, step: float) -> torch.Tensor:
    hu = few.hu.clone()
    for values, size in sizes.items():
        hu -= few.masks[values] * step * spreads[values] * bounded(guide / size)
    return hu


def _best_step(tried: list[Moments | None], calibrated: Moments, reference: Moments) -> float:
    """The step that brings the Gram matrices nearest, if they change by a line and a square of it, known at 0 and the steps ``TRIED``."""
    if any(moments is None for moments in tried):
        return float(STEPS[0])
    first, second = TRIED
    distance = 0
    for layer, target in reference.grams.items():
        none, short, far = (moments.grams[layer].double() for moments in tried)
        square = ((far - none) / second - (short - none) / first) / (second - first)
        line = (short - none) / first - first * square
        missed = (calibrated.grams[layer] - target).double()
        distance = distance + np.array([float((missed + s * line + s * s * square).square().sum()) for s in STEPS]) / len(target) ** 2
    return float(STEPS[int(np.argmin(distance))])


@dataclass(frozen=True, eq=False)
class Shown:
    """Slices in HU (n, H, W) and {label values: mask (n, H, W)}."""

    hu: torch.Tensor
    masks: dict[tuple[int, ...], torch.Tensor]

    @classmethod
    def of(cls, hu: np.ndarray, labels: np.ndarray, groups: dict[tuple[int, ...], tuple[int, ...]], body=None) -> Shown:
        """``groups`` says which of the ``labels`` stand for each key; label 0 is outside unless ``body`` says where that is."""
        outside = labels == 0 if body is None else ~body
        masks = {key: torch.from_numpy(np.isin(labels, values)) for key, values in groups.items()}
        return cls(torch.from_numpy(np.where(outside, OUTSIDE_HU, hu).astype(np.float32)), masks)

    def few(self, most: int = SLICES) -> Shown:
        """At most so many slices, evenly."""
        chosen = np.linspace(0, len(self.hu) - 1, min(most, len(self.hu))).round().astype(int)
        return Shown(self.hu[chosen], {key: mask[chosen] for key, mask in self.masks.items()})


def changed(
    hu: np.ndarray, labels: np.ndarray, tissues: np.ndarray, styles: list[tuple[tuple[int, ...], float, Told]], origin, *, seed: int,
    between: Callable[[float], None] | None = None, name: str = MODEL,
) -> np.ndarray:  # fmt: skip
    """What the network adds to restyled axial slices ``hu`` (k, j, i), in HU; 0 farther than a pixel from the styled structures.

    Parameters
    ----------
    labels : (k, j, i) int array
    tissues : int array
        Class of ``synthesis.condition`` of each label value.
    styles : list of (label values, strength, Told)
    origin : (k, j, i)
        World lattice position of the first voxel: fixes noise and pooling grid.
    between : callable, optional
        ``between(fraction)`` is called after every few slices and may raise.
    """
    network = load(name)
    result = np.zeros(hu.shape, np.float32)
    shown = np.isin(labels, [value for values, _, _ in styles for value in values])
    slices = np.flatnonzero(shown.any((1, 2)))
    if not len(slices):
        return result
    stride = network.config.stride
    window = tuple(_aligned(shown.any(axes), o, stride) for axes, o in zip(((0, 2), (0, 1)), origin[1:], strict=True))
    start = [o + w.start for o, w in zip(origin[1:], window, strict=True)]
    beyond = [(max(-w.start, 0), max(w.stop - n, 0)) for w, n in zip(window, hu.shape[1:], strict=True)]
    inner = tuple(slice(max(w.start, 0), min(w.stop, n)) for w, n in zip(window, hu.shape[1:], strict=True))
    told = [one for _, _, one in styles]
    statistics, steps = torch.stack([one.statistics for one in told]), torch.tensor([one.step for one in told])
    amplitudes = torch.tensor([strength * one.spread for _, strength, one in styles])
    kinds = torch.from_numpy(np.asarray(tissues, np.int64))
    for first in range(int(slices[0]), int(slices[-1]) + 1, AT_ONCE):
        last = min(first + AT_ONCE, int(slices[-1]) + 1)
        around = np.clip(np.arange(first - 1, last + 1), 0, len(hu) - 1)
        x = torch.from_numpy(np.pad(hu[(around, *inner)].astype(np.float32), ((0, 0), *beyond), constant_values=OUTSIDE_HU))
        here = torch.from_numpy(np.pad(labels[(slice(first, last), *inner)].astype(np.int64), ((0, 0), *beyond)))
        where = torch.stack([torch.isin(here, torch.tensor(values)) for values, _, _ in styles], 1)
        guide = bounded(guide_on(load_features(), x[1:-1], where.float(), told))
        tissue = torch.where((here == 0) & (x[1:-1] > -300), BODY, kinds[here])
        noise = noise_of(seed, (origin[0] + first, *start), here.shape)
        with torch.inference_mode(), autocast():
            shown_to_it = planes(x, guide, tissue, where.any(1), noise)
            residual = network(shown_to_it, guide * painted(steps, where), statistics, where.float())
        amplitude = faded(painted(amplitudes, where))
        change = (amplitude * residual.float()).numpy()
        part = tuple(slice(before, size - after) for (before, after), size in zip(beyond, change.shape[1:], strict=True))
        result[(slice(first, last), *inner)] = change[(slice(None), *part)]
        if between:
            between((last - slices[0]) / (slices[-1] + 1 - slices[0]))
    return result


def _aligned(line: np.ndarray, origin: int, stride: int) -> slice:
    """A span around what ``line`` shows that begins and ends on the pooling grid of the world; it may reach beyond the image."""
    shown = np.flatnonzero(line)
    low, high = int(shown[0]) - AROUND + origin, int(shown[-1]) + 1 + AROUND + origin
    return slice(low // stride * stride - origin, -(-high // stride) * stride - origin)


def guide_on(features: StyleFeatures, hu: torch.Tensor, masks: torch.Tensor, told: list[Told]) -> torch.Tensor:
    """The guide (D, H, W) of slices ``hu`` in its size on the calibration slices; ``masks`` (D, S, H, W) are those of ``told``."""
    sizes = torch.tensor([one.size for one in told])
    return _guided(features, hu, masks, [one.matrices for one in told]) * painted(1 / sizes, masks)


@lru_cache(maxsize=2)
def _loaded(path: str, sha256: str) -> StyleUNet:
    card = load_card(path)
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in card.network["unet"].items()}
    network = StyleUNet(StyleUNetConfig(**values))
    load_into(network, card)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def is_there(name: str = MODEL) -> bool:
    """Whether the style network is installed."""
    return any(card.name == name for card in models())


def load(name: str = MODEL) -> StyleUNet:
    """The style network by its name in the model store or its file, on the CPU; loaded once a process.

    Raises
    ------
    UnusableInput
        If the model is missing or damaged.
    """
    card = load_card(name)
    return _loaded(card.path, card.sha256)
