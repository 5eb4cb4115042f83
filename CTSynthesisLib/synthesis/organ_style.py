"""Organ-wise style (paper 001, better than published): this anatomy with the lungs of that scan.

From a segmentation, the default model draws the anatomy and each chosen structure then gets the reference's texture; from a CT, its own
structures do. How much of each band has to be added or taken away, and which HU become which, is found beforehand: from a CT on the CT
itself, from a segmentation by letting the model draw a few slices of the *reference's* anatomy and comparing them with the reference. So
the image that is made is never measured, blocks and edits behave as in ``generate`` (DESIGN, decision 2), and the model runs once. What
these slices still lack of the reference, a step then adds (``style_guide``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..anatomy import understand
from ..modelstore import load_card
from ..regions import segment_regions
from ..volume import Geometry, LabelMap, Segment, Volume, reorder, restore
from .generate import Cancelled, Result, generate
from .noise import CELL
from .request import FILLED, Request
from .style_features import load_encoder
from .style_guide import SLICES, Guide, Shown, guides_of, step_of
from .style_reference import FEWEST_VOXELS, Chosen, Kept, Reference, Slabs, Style, check_hounsfield, choose, digest, on_grid_of, slabs_of
from .texture_transfer import Noise, Texture, apply, faded, fit, measure

AT_ONCE = 24  # slices that are restyled together
FADE = 2  # pixels around a structure that are read
FITTED = 8  # slices that a transfer is fitted on
NARROWEST = 5.0  # HU: structures that vary less take steps as if they varied so much
DRAWN = 4  # slices of each slab of a reference that the model draws
_transfers, _textures = Kept(16), Kept(16)  # of references: a few numbers a structure


# ------------------------------------------------------------------------------------------------------------ the two ways


def style_segmentation(
    labelmap: LabelMap,
    reference: Reference,
    request: Request,
    style: Style,
    *,
    names: dict[str, str] | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Result, Volume]:
    """A synthetic CT of ``labelmap`` in the reference's style; and the same without it. See ``generate`` for the parameters and errors."""
    started = time.monotonic()
    report, stop = progress or (lambda fraction, stage: None), cancelled or (lambda: False)
    present = set(np.unique(labelmap.array).tolist())
    everything = understand(labelmap.segments, phase=request.phase, names=names, hu=request.hu, elsewhere=FILLED)
    chosen, sentences = choose([u for u in everything if u.segment.value in present], reference, style)
    last = 0.5 if style.refine else 0.95
    transfers, guides = _calibrated(
        chosen, reference, request, labelmap.geometry, lambda f: report(0.2 * last * f, "measuring the style"), stop
    )
    result = generate(labelmap, request, names=names, assumed=[*reference.notes, *sentences], cancelled=cancelled,
                      progress=lambda fraction, stage: report(last * (0.2 + 0.5 * fraction), stage))  # fmt: skip
    hu = restyle(result.volume, labelmap, transfers, seed=request.seed, between=_ticks(report, stop, 0.7 * last, 0.8 * last, "styling"))
    hu = _nearer(hu, result.volume, labelmap, guides, _ticks(report, stop, 0.8 * last, last, "styling"))
    if style.refine:
        hu = _refined(hu, labelmap, chosen, reference, style, _ticks(report, stop, last, 0.97, "refining"))
    report(1.0, "done")
    metadata = result.volume.metadata | _provenance(reference, style, chosen, labelmap.geometry)
    styled = Volume(hu, labelmap.geometry, metadata)
    return replace(result, volume=styled, seconds=time.monotonic() - started), result.volume


def style_ct(
    content: Volume,
    reference: Reference,
    style: Style,
    *,
    labelmap: LabelMap | None = None,
    names: dict[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Volume, tuple[str, ...]]:
    """``content`` with the chosen structures restyled, and sentences on what was assumed.

    Every voxel farther than :func:`margin_mm` from the chosen structures keeps its value, bit for bit. ``labelmap`` is the content's
    segmentation, or None: its tissue regions are found.

    Raises
    ------
    UnusableInput
        If either scan holds no Hounsfield units, the segmentation lies elsewhere, or a structure is missing.
    """
    report, stop = progress or (lambda fraction, stage: None), cancelled or (lambda: False)
    check_hounsfield(content, "The content")
    sentences = [*reference.notes]
    if labelmap is None:
        labelmap = segment_regions(content)
        sentences.append("The content came without a segmentation; its tissue regions were found by `segment`.")
    labelmap, note = on_grid_of(content.geometry, labelmap, "the content CT")
    sentences += [note] if note else []
    present = set(np.unique(labelmap.array).tolist())
    chosen, more = choose([u for u in understand(labelmap.segments, names=names) if u.segment.value in present], reference, style)
    last = 0.5 if style.refine else 0.97
    tick = _ticks(report, stop, 0.0, 0.4 * last, "measuring the style")
    spacing = content.geometry.reordered(*content.geometry.anatomical_axes).spacing
    groups = sorted({one.values for one in chosen})
    textures = _textures.get(digest(reference.digest, spacing, groups), lambda: _textures_of(groups, reference, spacing))
    own = slabs_of(content, labelmap, {(one.item.segment.value,) for one in chosen}, spacing)
    transfers = []
    for n, one in enumerate(chosen):
        tick(0.8 * n / len(chosen))
        texture = textures[one.values]
        mask = torch.from_numpy(own.labels == one.item.segment.value)
        if texture is None or mask.sum() < FEWEST_VOXELS:
            sentences.append(f"Too little of {one.item.segment.name} is shown to restyle it; it stays as it is.")
        else:
            transfers.append((one, fit(*most_of(torch.from_numpy(own.hu), mask), texture, seed=seed + 1), 0.0))
    guides = _guides_of_ct(own, transfers, textures, reference, spacing)
    hu = restyle(content, labelmap, transfers, seed=seed, between=_ticks(report, stop, 0.4 * last, 0.6 * last, "styling"))
    hu = _nearer(hu, content, labelmap, guides, _ticks(report, stop, 0.6 * last, last, "styling"))
    if style.refine:
        hu = _refined(hu, labelmap, chosen, reference, style, _ticks(report, stop, last, 0.97, "refining"))
    report(1.0, "done")
    metadata = content.metadata | {"CTSynthesis.Synthetic": "1"} | _provenance(reference, style, chosen, content.geometry)
    return Volume(hu, content.geometry, metadata), (*sentences, *more)


def margin_mm(geometry: Geometry) -> float:
    """How far beyond a styled structure its new look fades out: one pixel in-plane, diagonals included; nothing across slices."""
    columns, rows, _ = geometry.reordered(*geometry.anatomical_axes).spacing
    return float(np.hypot(columns, rows))


def restyle(volume: Volume, labelmap: LabelMap, transfers, *, seed: int, between=None) -> np.ndarray:
    """HU of ``volume`` with each (Chosen, Transfer, shift) applied; int16 on its geometry, untouched beyond :func:`margin_mm`.

    ``shift`` is by how many HU the segment lies above what its transfer was fitted on. Segments of one transfer are one structure, whose
    rim is not where they meet: chambers of a heart would else be outlined.
    """
    axes, flips = volume.geometry.anatomical_axes
    original = np.ascontiguousarray(reorder(volume.array, axes, flips))
    labels = reorder(labelmap.array, axes, flips)
    origin = volume.geometry.reordered(axes, flips).lattice_origin()
    change = np.zeros(original.shape, np.float32)
    alike: dict[tuple, int] = {}
    table, shifts = np.full(int(labels.max()) + 1, -1), np.zeros(int(labels.max()) + 1, np.float32)  # by label
    for one, transfer, shift in transfers:
        if one.item.segment.value < len(table):
            table[one.item.segment.value] = alike.setdefault((transfer, one.strength), len(alike))
            shifts[one.item.segment.value] = shift
    for first in range(0, len(labels), AT_ONCE):
        slab = slice(first, min(first + AT_ONCE, len(labels)))
        which = table[labels[slab]]
        if (which >= 0).any():
            around = _window(which >= 0, origin)
            start = [origin[0] + first, *(o + w.start for o, w in zip(origin[1:], around, strict=True))]
            noise = Noise(seed, start, (len(which), *(w.stop - w.start for w in around)))
            for (transfer, strength), n in alike.items():
                if (inside := which == n).any():
                    window = _window(inside, origin)
                    x, mask = (torch.from_numpy(a[(slice(None), *window)].astype(np.float32)) for a in (original[slab], inside))
                    share = faded(mask)
                    above = torch.from_numpy(shifts[labels[(slab, *window)]]) * mask
                    above = torch.where(mask > 0, above, faded(above) / share.clamp(min=1e-6))
                    of_noise = tuple(slice(w.start - a.start, w.stop - a.start) for w, a in zip(window, around, strict=True))
                    y = apply(x - above, mask, transfer, strength, noise=noise, window=of_noise) + (1 - strength) * above
                    change[(slab, *window)] += (share * (y - x)).numpy()
        if between:
            between(slab.stop / len(labels))
    styled = np.clip(np.rint(original + change), -1024, 3071).astype(np.int16)
    result = np.where(change == 0, original, styled).astype(np.int16)
    return np.ascontiguousarray(restore(result, axes, flips))


def _nearer(hu, volume: Volume, labelmap: LabelMap, guides: list[tuple[Chosen, Guide]], between) -> np.ndarray:
    """Restyled ``hu`` after the step against the guides; a voxel that this leaves alone keeps its value."""
    axes, flips = volume.geometry.anatomical_axes
    image, labels = (np.ascontiguousarray(reorder(a, axes, flips)) for a in (hu, labelmap.array))
    groups: dict[tuple, list] = {}
    for one, guide in guides:
        groups.setdefault((one.values, one.strength), [guide]).append(one.item.segment.value)
    styles = [(tuple(values), strength, guide) for (_, strength), (guide, *values) in groups.items() if strength > 0]
    change = step_of(image, labels, styles, volume.geometry.reordered(axes, flips).lattice_origin(), between=between)
    nearer = np.where(change == 0, image, np.clip(np.rint(image + change), -1024, 3071)).astype(np.int16)
    return np.ascontiguousarray(restore(nearer, axes, flips))


def _window(mask: np.ndarray, origin=(0, 0, 0)) -> tuple[slice, slice]:
    """Rows and columns that hold the mask and the pixels into which it fades; they begin on the lattice of the bands."""
    spans = [np.flatnonzero(mask.any(axes)) for axes in ((0, 2), (0, 1))]
    starts = [(int(s[0]) - FADE + o) // CELL * CELL - o for s, o in zip(spans, origin[1:], strict=True)]
    return tuple(slice(max(a, 0), min(int(s[-1]) + FADE + 1, n)) for a, s, n in zip(starts, spans, mask.shape[1:], strict=True))


def most_of(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of the ``FITTED`` slices that show most of the mask."""
    chosen = mask.sum((1, 2)).argsort(descending=True)[:FITTED].sort().values
    return _boxed(x[chosen], mask[chosen])


def _boxed(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    window = (slice(None), *_window(mask.numpy()))
    return x[window].contiguous(), mask[window].contiguous()


# ------------------------------------------------------------------------------------------------------------ fitted beforehand


def texture_of(shown: Slabs, values: tuple[int, ...], apart: float) -> Texture | None:
    """The texture of the structures ``values`` where slices lie ``apart`` mm from each other; None where too little of them is shown."""
    mask = np.isin(shown.labels, values)
    if mask.sum() < FEWEST_VOXELS:
        return None
    texture = measure(*_boxed(torch.from_numpy(shown.hu), torch.from_numpy(mask)), firsts=shown.firsts)
    return replace(texture, slice_correlation=tuple(c ** (apart / shown.apart) for c in texture.slice_correlation))


def _textures_of(groups, reference: Reference, spacing) -> dict[tuple[int, ...], Texture | None]:
    shown = slabs_of(reference.scan, reference.labelmap, groups, spacing)
    return {values: texture_of(shown, values, spacing[2]) for values in groups}


def _calibrated(chosen, reference: Reference, request: Request, geometry: Geometry, tick, stop):
    """The transfer of each chosen structure, as (Chosen, Transfer, shift), and its guide, (Chosen, Guide).

    Both are found where model and reference show the same anatomy: the reference's. The model is told the content's Hounsfield values
    there. All seeds share one fit.
    """
    spacing = geometry.reordered(*geometry.anatomical_axes).spacing
    told: dict[int, float] = {}
    for one in chosen:
        for value in one.values:
            told.setdefault(value, one.item.mean_hu)
    groups = sorted({one.values for one in chosen})
    request = replace(request, hu=None, outside="air", seed=0)
    key = digest(reference.digest, spacing, request.to_json(), load_card(request.model).sha256, sorted(told.items()), groups)
    transfers, guides = _transfers.get(key, lambda: _fitted(groups, told, reference, request, spacing, tick, stop))
    fits = [(one, transfers[one.values], one.item.mean_hu - told[one.values[0]]) for one in chosen if one.values in transfers]
    return fits, [(one, guides[one.values]) for one in chosen if one.values in guides]


def _fitted(groups, told, reference: Reference, request: Request, spacing, tick, stop) -> tuple[dict, dict]:
    """Transfers and guides by label values of the reference."""
    shown = slabs_of(reference.scan, reference.labelmap, groups, spacing)
    segments = tuple(Segment(u.segment.value, u.segment.name, hu=told.get(u.segment.value)) for u in reference.understood)
    drawn, chosen = [], []
    for first, g in zip(shown.firsts.tolist(), shown.geometries, strict=True):
        tick(first / len(shown.hu))
        begin, depth = max(g.shape[0] - DRAWN, 0) // 2, min(g.shape[0], DRAWN)
        chosen += range(first + begin, first + begin + depth)
        part = g.crop((begin, 0, 0), (depth, *g.shape[1:]))
        labels = np.ascontiguousarray(shown.labels[first + begin : first + begin + depth])
        drawn.append(generate(LabelMap(labels, part, segments), request, cancelled=stop).volume.array)
    content, labels = torch.from_numpy(np.concatenate(drawn).astype(np.float32)), shown.labels[chosen]
    transfers, textures = {}, {}
    for values in groups:
        mask = torch.from_numpy(np.isin(labels, values))
        if mask.any() and (texture := texture_of(shown, values, spacing[2])):
            transfers[values], textures[values] = fit(*most_of(content, mask), texture, seed=1, steady=True), texture
    tick(1.0)
    same = {values: values for values in transfers}
    return transfers, _guides(shown.hu[chosen], labels, content, labels, same, transfers, textures)


def _guides_of_ct(own: Slabs, transfers, textures, reference: Reference, spacing) -> list[tuple[Chosen, Guide]]:
    """Guides for a content CT, from slices ``own`` of it."""
    values, fits = {}, {}
    for one, transfer, _ in transfers:
        values.setdefault(one.values, []).append(one.item.segment.value)
        fits[one.values] = transfer
    if not fits:
        return []
    shown = slabs_of(reference.scan, reference.labelmap, sorted(fits), spacing)
    guides = _guides(shown.hu, shown.labels, torch.from_numpy(own.hu), own.labels, values, fits, textures)
    return [(one, guides[one.values]) for one, _, _ in transfers if one.values in guides]


def _guides(theirs, their_labels, content: torch.Tensor, labels: np.ndarray, values: dict, transfers: dict, textures: dict) -> dict:
    """Guides from slices of the reference (n, H, W) and a few of the ``content``, restyled where ``labels`` are ``values``."""
    chosen = np.linspace(0, len(content) - 1, min(SLICES, len(content))).round().astype(int)
    hu, labels = content[chosen], labels[chosen]
    change, noise = torch.zeros_like(hu), Noise(1, (0, 0, 0), hu.shape)
    for key, transfer in transfers.items():
        mask = np.isin(labels, values[key])
        if mask.any():
            rows_columns = _window(mask)
            window = (slice(None), *rows_columns)
            x, inside = hu[window], torch.from_numpy(mask[window]).float()
            change[window] += faded(inside) * (apply(x, inside, transfer, 1.0, noise=noise, window=rows_columns) - x)
    wanted = Shown.of(theirs, their_labels, {key: key for key in transfers}).few(SLICES)
    spreads = {key: max(textures[key].spread, NARROWEST) for key in transfers}
    return guides_of(load_encoder(), wanted, Shown.of((hu + change).numpy(), labels, values), spreads)


def _refined(hu, labelmap, chosen, reference, style, between):
    from .style_refine import refine

    return refine(hu, labelmap, chosen, reference, steps=style.refine, between=between)


def _ticks(report, stop, begin: float, end: float, stage: str):
    def tick(fraction):
        report(begin + (end - begin) * fraction, stage)
        if stop():
            raise Cancelled("Styling was cancelled.")

    return tick


def _provenance(reference: Reference, style: Style, chosen, geometry: Geometry) -> dict[str, str]:
    facts = {"reference": reference.name, "refine": style.refine, "margin_mm": round(margin_mm(geometry), 3),
             "strength": {one.item.segment.name: one.strength for one in chosen}}  # fmt: skip
    return {"CTSynthesis.Style": json.dumps(facts)}
