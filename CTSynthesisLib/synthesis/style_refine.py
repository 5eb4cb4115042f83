"""The slow path: the image itself is optimised against the losses of paper 001, starting from the fast result.

Style is equation 6 over a slab of slices together, each Gram matrix divided by the segment's area and each segment's term by what it was at
the beginning, so that all come nearer alike; content is equation 7 against the fast result. Volume coherence: what is changed must be
alike in neighbouring slices, also across slabs. Voxels beyond the styled structures' margin are not touched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..networks.vgg import CONTENT_LAYERS, STYLE_LAYERS
from ..volume import LabelMap, reorder, restore
from .mask_cgan import compute_dtype
from .style_features import StyleFeatures, load_features, mask_at, normalised_gram
from .style_reference import FEWEST_VOXELS, Chosen, Kept, Reference, digest, slabs_of
from .texture_transfer import faded

SLAB = 4  # slices that are optimised together
RATE, LAST_RATE = 4.0, 0.5  # HU a step, Adam: at the beginning and at the end
CONTENT_WEIGHT, COHERENCE_WEIGHT = 0.1, 0.15
MARGIN = 16  # pixels around the styled structures that the network sees
REFERENCE_SLICES = 12
GRADIENT_SPREAD = 20.0  # HU: changes are measured in it
_targets = Kept(4)  # of references: some megabytes each


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
    targets = _targets.get(key, lambda: target_grams(features, reference, groups, spacing))
    chosen = [one for one in chosen if one.values in targets and one.strength > 0]
    shown = np.flatnonzero(np.isin(labels, [one.item.segment.value for one in chosen]).any((1, 2)))
    firsts = range(int(shown[0]), int(shown[-1]) + 1, SLAB) if len(shown) else ()
    result, previous = image.copy(), None
    for n, first in enumerate(firsts):
        window = (slice(first, min(first + SLAB, int(shown[-1]) + 1)), *_box(labels[first : first + SLAB], chosen))

        def tick(part, n=n):
            if between:
                between((n + part) / len(firsts))

        before = None if previous is None else torch.from_numpy(previous[window[1:]])
        change = _optimised(features, image[window], labels[window], chosen, targets, steps, before, tick)
        result[window] += change
        previous = np.zeros(image.shape[1:], np.float32)
        previous[window[1:]] = change[-1]
    rounded = np.where(result == image, image, np.clip(np.rint(result), -1024, 3071)).astype(np.int16)
    return np.ascontiguousarray(restore(rounded, axes, flips))


def target_grams(features: StyleFeatures, reference: Reference, groups, spacing) -> dict[tuple[int, ...], dict[int, torch.Tensor]]:
    """Area-normalised Gram matrices of the reference for each group of its label values: {group: {style layer: (N, N)}}."""
    shown = slabs_of(reference.scan, reference.labelmap, groups, spacing)
    chosen = np.linspace(0, len(shown.hu) - 1, min(REFERENCE_SLICES, len(shown.hu))).round().astype(int)
    counts = {values: np.isin(shown.labels, values).sum((1, 2)) for values in groups}
    together: dict[tuple[int, ...], list] = {}
    for values, count in counts.items():
        if count.sum() >= FEWEST_VOXELS:
            best = chosen if count[chosen].sum() > 0.2 * count.sum() else np.argsort(count)[-REFERENCE_SLICES:]
            together.setdefault(tuple(best.tolist()), []).append(values)
    result = {}
    for best, several in together.items():
        masks = {values: torch.from_numpy(np.isin(shown.labels[list(best)], values)) for values in several}
        result |= grams_each(features, torch.from_numpy(shown.hu[list(best)]), masks)
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


def _box(labels, chosen):
    mask = np.isin(labels, [one.item.segment.value for one in chosen])
    spans = (np.flatnonzero(mask.any(others)) for others in ((0, 2), (0, 1)))
    return tuple(slice(max(int(s[0]) - MARGIN, 0), int(s[-1]) + MARGIN + 1) if len(s) else slice(0, 2 * MARGIN) for s in spans)


def _optimised(features, fast, labels, chosen, targets, steps, previous, tick) -> np.ndarray:
    """What is to be added to the slab ``fast`` (D, H, W)."""
    fast = torch.from_numpy(fast)
    masks = {one: torch.from_numpy(labels == one.item.segment.value).float() for one in chosen}
    masks = {one: mask for one, mask in masks.items() if mask.sum() >= 50}
    if not masks:
        return np.zeros(fast.shape, np.float32)
    weight = sum(one.strength * faded(mask) for one, mask in masks.items()).clamp(max=1)
    change = torch.zeros_like(fast, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=RATE, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, LAST_RATE)
    first: dict[Chosen, torch.Tensor] = {}
    precision = compute_dtype("cpu")
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        content = {layer: f.float() for layer, f in features(fast[:, None], CONTENT_LAYERS).items()}
    for step in range(steps):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            found = features((fast + weight * change)[:, None])
        found = {layer: f.float() for layer, f in found.items()}
        style = {one: _style_term(found, mask[:, None], targets[one.values]) for one, mask in masks.items()}
        first = first or {one: term.detach().clamp(min=1e-6) for one, term in style.items()}
        loss = sum(style[one] / first[one] for one in masks) / len(masks)
        for layer in CONTENT_LAYERS:
            loss = loss + CONTENT_WEIGHT * (found[layer] - content[layer]).square().sum() / content[layer].square().sum()
        steps_between = (change[1:] - change[:-1]) / GRADIENT_SPREAD
        loss = loss + COHERENCE_WEIGHT * (weight[1:] * steps_between.square()).sum() / weight.sum()
        if previous is not None:
            loss = loss + COHERENCE_WEIGHT * (weight[0] * ((change[0] - previous) / GRADIENT_SPREAD).square()).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        tick((step + 1) / steps)
    return (weight * change).detach().numpy()


def _style_term(found, mask, target):
    """Equation 6 for one segment, area-normalised: Σ over style layers of 1 / (4 N²) · ‖RR - SS‖², RR the second moments in the slab."""
    total = 0
    for layer in STYLE_LAYERS:
        f = found[layer]
        share = mask_at(mask, f)
        weighted = (f * share.sqrt()).transpose(0, 1).flatten(1)  # (N, D·h·w)
        total = total + ((weighted @ weighted.T) / share.sum() - target[layer]).square().sum() / (4 * len(target[layer]) ** 2)
    return total
