"""How well organ-wise style works: the figures of ``ctsynthesis evaluate --style``, on real scans.

Each case is the content (its tissue regions alone: the anatomy is drawn) and each, itself included, the reference. A case styled after
itself shows what style alone can do; after another person, deep features also differ because the anatomy does. ``real`` is the distance of
the content's own real slices from the reference.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import UnusableInput
from ..files import read_segmentation, read_volume, write_segmentation
from ..regions import segment_regions
from ..synthesis.generate import generate
from ..synthesis.organ_style import margin_mm, style_segmentation, texture_of
from ..synthesis.request import Request
from ..synthesis.style_features import StyleFeatures, load_features
from ..synthesis.style_reference import Reference, Style, choose, reference_of, slabs_of
from ..synthesis.style_refine import gram_distance, grams_each
from ..synthesis.texture_transfer import FILLED, interior, measure
from ..volume import LabelMap, Volume
from .coherence import neighbour_change
from .fidelity import dice, resegment
from .style_separation import separation

OUTSIDE_HU = -1000.0  # what surrounds the body is nobody's style
EVERY = 3  # slices of which one is compared
FEWEST = 2000  # voxels of a structure in the content that are worth a figure
SEEDS = 8
REFINED_SLICES = 4
COUNTS_FROM = 0.8  # Dice of the unstyled CT from which on a class counts as found; what was hardly found can only rise


@dataclass(frozen=True)
class StylePlan:
    """``cases`` are names in ``data`` or paths; ``slices`` of each, about its middle, are drawn; ``refine`` steps of the slow path."""

    data: Path
    out: Path
    cases: tuple[str, ...] = ()
    slices: int = 16
    refine: int = 0
    seed: int = 0
    device: str = "auto"


def evaluate_style(plan: StylePlan, report: Callable[[str], None] = print) -> dict:
    """Measure, print line by line, and write ``style.json`` into ``plan.out``; returns what it holds.

    Raises
    ------
    UnusableInput
        If a case is missing.
    """
    cases = {name: (scan, regions) for name, scan, regions in _cases(plan)}
    features, request = load_features(), Request(seed=plan.seed, device=plan.device)
    references = {name: reference_of(scan, name, regions) for name, (scan, regions) in cases.items()}
    result: dict = {"features": features.name, "separation": separation(cases, features), "pairs": [], "contents": []}
    report("Gram distance of features, median, relative: " + _sentence(result["separation"]))
    heads = ("unstyled", "styled", "fall", "real", "HU off", "real off", "spread", "real")
    report(f"{'content':<18} {'reference':<18} {'structure':<13} " + " ".join(f"{head:>8}" for head in heads))
    for content in cases:
        scan, regions = (_middle(one, plan.slices) for one in cases[content])
        for name, reference in references.items():
            rows, figures = _pair(scan, regions, reference, request, features)
            for row in rows:
                report(f"{content:<18} {name:<18} {row['structure']:<13} {row['unstyled']:8.3f} {row['styled']:8.3f} {row['fall']:8.0%} "
                       f"{row['real']:8.3f} {row['hu_off']:8.1f} {row['real_hu_off']:8.1f} {row['spread_ratio']:8.2f} "
                       f"{row['real_spread_ratio']:8.2f}")  # fmt: skip
            report(f"{'':<18} {'':<18} " + _sentence(figures))
            result["pairs"].append({"content": content, "reference": name, "structures": rows, **figures})
        other = next((r for name, r in references.items() if name != content), references[content])
        figures = {"content": content, **_chosen_only(regions, other, request)}
        if not result["contents"]:  # eight volumes of one content say enough
            figures |= _variants(regions, other, request)
        if plan.refine:
            figures |= _refined(regions, other, request, features, plan.refine)
        report(f"{content}: " + _sentence({k: v for k, v in figures.items() if not isinstance(v, dict | str)}))
        for key, table in figures.items():
            if isinstance(table, dict):
                report(f"{content}: {key}: " + _sentence(table))
        result["contents"].append(figures)
    plan.out.mkdir(parents=True, exist_ok=True)
    (plan.out / "style.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _pair(scan: Volume, regions: LabelMap, reference: Reference, request: Request, features: StyleFeatures):
    started = time.process_time()
    generate(regions, request)
    of_generate = time.process_time() - started
    started = time.process_time()
    styled, plain = style_segmentation(regions, reference, request, Style())
    of_style = time.process_time() - started
    chosen, _ = choose(styled.understood, reference, Style())
    rows = _distances(regions, chosen, reference, features, plain=plain.array, styled=styled.volume.array, real=scan.array)
    before, after, truth = (dice(resegment(volume), regions) for volume in (plain, styled.volume, scan))
    counted = [name for name, value in before.items() if value >= COUNTS_FROM]
    return rows, {
        "dice_fall_mean": float(np.mean([before[n] - after[n] for n in counted])) if counted else float("nan"),
        "dice_fall_most": max((before[n] - after[n] for n in counted), default=float("nan")),
        "dice_fall_of_all": float(np.nanmean([before[n] - after[n] for n in before])),
        "dice_fall_of_the_real": float(np.mean([before[n] - truth[n] for n in counted])) if counted else float("nan"),
        "slice_change_over_reference": _slice_change(styled.volume, regions, reference),
        "processor_seconds_generate": of_generate,
        "processor_seconds_style": of_style,  # less where the reference was measured before
    }


def _slice_change(volume: Volume, regions: LabelMap, reference: Reference) -> float:
    """Change between slices over change within, over the same of the reference."""
    along = [neighbour_change(v.array, m.array > 0) for v, m in ((volume, regions), (reference.scan, reference.labelmap))]
    ours, theirs = (one["k"] / (0.5 * (one["i"] + one["j"])) for one in along)
    return ours / theirs


def _distances(
    regions: LabelMap, chosen, reference: Reference, features: StyleFeatures, *, of_these=slice(1, None, EVERY), **volumes
) -> list[dict]:
    """A row a structure: Gram distances of slices ``of_these`` to the reference, mean HU and spread of the interior against its."""
    spacing = regions.geometry.spacing
    shown = slabs_of(reference.scan, reference.labelmap, {one.values for one in chosen}, spacing)
    theirs = torch.from_numpy(np.where(shown.labels == 0, OUTSIDE_HU, shown.hu).astype(np.float32))
    ours = {n: torch.from_numpy(np.where(regions.array == 0, OUTSIDE_HU, v).astype(np.float32)) for n, v in volumes.items()}
    masks = {one: torch.from_numpy(regions.array == one.item.segment.value) for one in chosen}
    masks = {one: mask for one, mask in masks.items() if mask.sum() >= FEWEST and mask[of_these].any()}
    others = {one: torch.from_numpy(np.isin(shown.labels, one.values)) for one in masks}
    masks = {one: mask for one, mask in masks.items() if others[one][::EVERY].any()}
    targets = grams_each(features, theirs[::EVERY], {one: others[one][::EVERY] for one in masks})
    found = {n: grams_each(features, v[of_these], {one: mask[of_these] for one, mask in masks.items()}) for n, v in ours.items()}
    rows = []
    for one, mask in masks.items():
        row = {n: gram_distance(each[one], targets[one]) for n, each in found.items()}
        inner, their_inner = _interiors(mask, others[one])
        a, b = ours["styled"][inner].double(), theirs[their_inner].double()
        row |= {"structure": one.item.segment.name, "unstyled": row.pop("plain"), "hu_off": float(a.mean() - b.mean()),
                "spread_ratio": float(a.std() / b.std()), "voxels": int(mask.sum())}  # fmt: skip
        if "real" in ours:  # what two persons, or two parts of one, differ by
            real = ours["real"][inner].double()
            row |= {"real_hu_off": float(real.mean() - b.mean()), "real_spread_ratio": float(real.std() / b.std())}
        row["fall"] = 1 - row["styled"] / row["unstyled"]
        rows.append(row)
    return rows


def _interiors(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The interiors of two masks, or both whole where either has next to none: a vessel's border is no vessel's middle."""
    inner = interior(one), interior(other)
    return (one, other) if inner[0] is one or inner[1] is other else inner


def _chosen_only(regions: LabelMap, reference: Reference, request: Request) -> dict:
    """Style of the lungs (or whatever structure comes first) alone: what happens to the rest."""
    from scipy.ndimage import distance_transform_edt

    understood = generate(regions, request).understood
    all_of_them, _ = choose(understood, reference, Style())
    one = next((c for c in all_of_them if c.item.structure.name == "lungs"), all_of_them[0])
    styled, plain = style_segmentation(regions, reference, request, Style(structures=(one.item.segment.name,)))
    change = np.abs(styled.volume.array.astype(int) - plain.array)
    parts, _ = choose(understood, reference, Style(structures=(one.item.segment.name,)))  # vessels are part of the lungs
    inside = np.isin(regions.array, [part.item.segment.value for part in parts])
    far = distance_transform_edt(~inside, sampling=regions.geometry.spacing[::-1]) > margin_mm(regions.geometry) + 1e-6
    rest = (regions.array > 0) & ~inside
    return {"only_styled": one.item.segment.name, "margin_mm": margin_mm(regions.geometry),
            "change_of_the_rest": float(change[rest].mean()), "most_change_beyond_margin": int(change[far].max())}  # fmt: skip


def _variants(regions: LabelMap, reference: Reference, request: Request) -> dict:
    """Eight seeds: voxelwise spread over the structure's own, bands over the reference's (mean |log ratio|; all, and the grain's), Dice."""
    made, plain = zip(*(style_segmentation(regions, reference, replace(request, seed=n), Style()) for n in range(SEEDS)), strict=True)
    stack = np.stack([one.volume.array for one in made]).astype(np.float32)
    chosen, _ = choose(made[0].understood, reference, Style())
    spacing, spread, spectra, grain = tuple(regions.geometry.spacing), {}, {}, {}
    shown = slabs_of(reference.scan, reference.labelmap, {one.values for one in chosen}, spacing)
    for one in chosen:
        mask = regions.array == one.item.segment.value
        if mask.sum() >= FEWEST:
            spread[one.item.segment.name] = float(stack.std(0)[mask].mean() / stack[0][mask].std())
            found = measure(torch.from_numpy(stack[-1]), torch.from_numpy(mask))
            wanted = texture_of(shown, one.values, spacing[2])
            ratio = np.abs(np.log(np.divide(found.bands, wanted.bands)))
            spectra[one.item.segment.name], grain[one.item.segment.name] = float(ratio.mean()), float(ratio[:FILLED].mean())
    return {"variant_spread": spread, "variant_bands_log_ratio": spectra, "variant_grain_log_ratio": grain,
            "variant_dice_change_most": _dice_change([one.volume for one in made], regions),
            "variant_dice_change_most_unstyled": _dice_change(plain, regions)}  # fmt: skip


def _dice_change(volumes, regions: LabelMap) -> float:
    scores = [dice(resegment(volume), regions) for volume in volumes]
    counted = [name for name, value in scores[0].items() if value >= COUNTS_FROM]
    return max((abs(score[name] - scores[0][name]) for score in scores[1:] for name in counted), default=float("nan"))


def _refined(regions: LabelMap, reference: Reference, request: Request, features: StyleFeatures, steps: int) -> dict:
    few = _middle(regions, REFINED_SLICES)
    started = time.process_time()
    slow, plain = style_segmentation(few, reference, request, Style(refine=steps))
    seconds = time.process_time() - started
    chosen, _ = choose(slow.understood, reference, Style())
    rows = _distances(few, chosen, reference, features, of_these=slice(None), plain=plain.array, styled=slow.volume.array)
    tables = {f"refined_{key}": {row["structure"]: row[key] for row in rows} for key in ("fall", "hu_off", "spread_ratio")}
    before, after = (dice(resegment(volume), few) for volume in (plain, slow.volume))
    counted = [name for name, value in before.items() if value >= COUNTS_FROM]
    return {**tables, "refine_steps": steps, "refine_processor_seconds_a_slice": seconds / len(few.array),
            "refined_slice_change_over_reference": _slice_change(slow.volume, few, reference),
            "refined_dice_fall_mean": float(np.mean([before[n] - after[n] for n in counted])) if counted else float("nan")}  # fmt: skip


def _cases(plan: StylePlan):
    names = plan.cases or tuple(sorted(path.parent.name for path in plan.data.glob("*/ct.nrrd")))
    for name in names:
        folder = Path(name) if (Path(name) / "ct.nrrd").exists() else plan.data / name
        if not (folder / "ct.nrrd").exists():
            raise UnusableInput(f"There is no case '{name}': neither {plan.data / name} nor that path holds a ct.nrrd.")
        scan, kept = read_volume(folder / "ct.nrrd"), plan.out / "regions" / f"{folder.name}.seg.nrrd"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_segmentation(segment_regions(scan), kept)
        yield folder.name, scan, replace(read_segmentation(kept), geometry=scan.geometry)
    if not names:
        raise UnusableInput(f"No case was found in {plan.data}: each case is a folder with a ct.nrrd.")


def _middle(one, slices: int):
    """The ``slices`` about the middle of a volume or label map, along its first array axis."""
    first = max((len(one.array) - slices) // 2, 0)
    array = np.ascontiguousarray(one.array[first : first + slices])
    return replace(one, array=array, geometry=one.geometry.crop((first, 0, 0), array.shape))


def _sentence(figures: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
