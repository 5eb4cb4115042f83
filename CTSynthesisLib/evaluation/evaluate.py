"""The evaluation: cases x conditions x modes x methods, measured, judged against the targets, and shown in one table and in pictures."""

from __future__ import annotations

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import UnusableInput
from ..modelstore import ModelCard, load_card
from ..volume import Volume
from . import ceilings, measures
from .cases import Case, find_cases, load_case
from .conditions import CONDITIONS
from .kept import Kept, key_of, source_of, write_json
from .methods import METHODS, MODES, Drawn, Task, borders_of, request_for

CEILINGS = ("nearest", "real")
ROWS = (*METHODS, *CEILINGS)
PLANES = ("axial", "sagittal", "coronal")
MOST_OTHERS = 8  # persons that real is measured against
NOMINAL_VOXELS = 256 * 256 * 128  # what the target for speed speaks of

_ENGINE = ("synthesis", "networks", "volume.py", "anatomy.py", "regions.py", "evaluation/methods.py", "evaluation/conditions.py")
_METRICS = ("evaluation/measures.py", "evaluation/hounsfield.py", "evaluation/texture.py", "evaluation/structure.py", "evaluation/image.py",
            "evaluation/coherence.py", "evaluation/cases.py", "evaluation/tissues.py", "evaluation/ceilings.py")  # fmt: skip
_FEATURES = ("evaluation/fidelity.py", "evaluation/distribution.py", "networks/segmenter.py")


@dataclass(frozen=True)
class Plan:
    """What is evaluated. ``training`` is the folder of the persons that the model was trained on; they serve as the other real persons."""

    data: Path
    out: Path
    model: str = "default"
    cases: tuple[str, ...] = ()
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    modes: tuple[str, ...] = MODES
    rows: tuple[str, ...] = ROWS
    seed: int = 0
    training: Path | None = None
    inception: Path | None = None
    audit: bool = False
    pictures: bool = True
    device: str = "auto"

    @property
    def regions(self) -> Path:
        """Where the cases' regions are kept: another folder for another way to find them."""
        return self.out / "regions" / source_of("regions.py", "volume.py")

    def __post_init__(self):
        for what, known in (("conditions", tuple(CONDITIONS)), ("modes", MODES), ("rows", ROWS)):
            if unknown := [name for name in getattr(self, what) if name not in known]:
                raise UnusableInput(f"'{unknown[0]}' is none of the {what}; choose from {', '.join(known)}.")


@dataclass(eq=False)
class _Run:
    """What a run has gathered. ``records`` are the figures of one volume each, with the names of case, condition, mode and row."""

    plan: Plan
    kept: Kept
    card: ModelCard | None
    report: Callable[[str], None]
    records: list[dict] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # part -> the sentence that says why it is missing
    features: dict[tuple, list[dict]] = field(default_factory=lambda: defaultdict(list))  # by (condition, mode, row)
    pictures: list[str] = field(default_factory=list)

    def optional(self, part: str, function, *args, **kwargs):
        """``function(...)``, or None with a sentence in the report if this part cannot be had here."""
        try:
            return function(*args, **kwargs)
        except (ImportError, UnusableInput) as error:
            why = f"the package or module '{error.name}' is missing" if isinstance(error, ImportError) else str(error)
            if part not in self.absent:
                self.absent[part] = f"{part}: not measured, because {why.rstrip('.')}."
                self.report(f"note: {self.absent[part]}")
            return None


def evaluate(plan: Plan, report: Callable[[str], None] = print) -> dict:
    """Run ``plan``; writes ``evaluation.json``, ``evaluation.md`` and pictures into ``plan.out``, and returns what the JSON holds.

    What has been drawn and measured before, with the same code, weights and seed, is taken from ``plan.out``.

    Raises
    ------
    UnusableInput
        If a case, condition, mode, row or the model does not exist.
    """
    from .evaluation_table import as_markdown

    started = time.monotonic()
    folders = find_cases(plan.data, plan.cases)
    others = [f for f in find_cases(plan.training or plan.data) if f.name not in {folder.name for folder in folders}]
    card = load_card(plan.model) if {"model", "per_slice"} & set(plan.rows) else None
    run = _Run(plan, Kept(plan.out), card, report)
    if not others:
        run.absent["others"] = "Other persons: none (give --training DIR), so no rows 'real' and 'nearest', and no Fréchet distances."
        report(f"note: {run.absent['others']}")
    for folder in folders:
        case = load_case(folder, plan.regions)
        if card is not None and folder.name in str(card.training_data):
            report(f"note: {folder.name} is among the model's training data; its figures are not those of an unseen person.")
        _evaluate_case(run, case)
        if others:
            _evaluate_ceilings(run, case, others)
        del case
        gc.collect()
    distances = run.optional("Fréchet distances", _distances, run, others) or []
    result = {
        "model": {} if card is None else {"name": card.name, "version": card.version, "sha256": card.sha256},
        "seed": plan.seed,
        "cases": [folder.name for folder in folders],
        "other_persons": [folder.name for folder in others],
        "absent": list(run.absent.values()),
        "summary": summary(run.records, distances),
        "real_ranges": real_ranges(run.records),
        "records": run.records,
        "pictures": run.pictures,
        "seconds": time.monotonic() - started,
    }
    if plan.audit:
        result["audit"] = run.optional("memorisation audit", _audit, run, folders, others)
    write_json(plan.out / "evaluation.json", result)
    (plan.out / "evaluation.md").write_text(as_markdown(result), encoding="utf-8")
    return result


# --------------------------------------------------------------------------------------------------------------- one case after another


def _evaluate_case(run: _Run, case: Case) -> None:
    plan = run.plan
    for condition in plan.conditions:
        labelmap = CONDITIONS[condition](case, plan.seed)
        if labelmap is None:
            run.report(f"note: {case.name} has no structure for the condition '{condition}'.")
            continue
        for mode in plan.modes:
            request = run.optional(
                f"mode {mode}", request_for, case, labelmap, mode, model=plan.model, seed=plan.seed, device=plan.device
            )
            if request is None:
                continue
            task = Task(case, condition, mode, labelmap, request)
            drawn = {row: _evaluate_row(run, task, row) for row in METHODS if row in plan.rows}
            if plan.pictures:
                _pictures(run, task, drawn)


def _evaluate_row(run: _Run, task: Task, row: str) -> Volume:
    case, name = task.case, f"{task.case.name}/{task.condition}-{task.mode}-{row}"
    weights = run.card.sha256 if row in ("model", "per_slice") else ""
    told = task.labelmap.array, [(s.value, s.name) for s in task.labelmap.segments]
    key = key_of(name, task.request.to_json(), *told, weights, source_of(*_ENGINE))
    volume = run.kept.volume(name, key)
    if volume is None:
        started = time.monotonic()
        drawn: Drawn = METHODS[row](task)
        volume = Volume(drawn.hu, case.ct.geometry)
        run.kept.keep_volume(name, key, volume, Seconds=drawn.seconds, PeakMB=drawn.peak_mb)
        if drawn.seconds is not None:  # kept apart, because a volume that is taken from the folder costs nothing
            cost = {"seconds": drawn.seconds, "seconds_scaled": drawn.seconds * NOMINAL_VOXELS / drawn.hu.size, "peak_mb": drawn.peak_mb}
            run.kept.keep_figures(f"{name}-cost", key, cost)
        run.report(f"{name}: drawn in {time.monotonic() - started:.0f} s")
    candidate = replace(case, ct=Volume(volume.array, case.ct.geometry))
    borders = run.optional("block borders", borders_of, run.card, case.ct.geometry) if row == "model" else None
    figures = _figures(run, name, key, lambda: measures.drawn_against(candidate, case, task.labelmap, borders))
    seen = _figures(run, f"{name}-fidelity", key_of(key, source_of(*_FEATURES), _segmenter()),
                    lambda: run.optional("fidelity to the mask (re-segmenter)", measures.fidelity, candidate, case, task.told))  # fmt: skip
    record = {"case": case.name, "condition": task.condition, "mode": task.mode, "row": row}
    run.records.append(record | figures | (seen or {}) | (run.kept.figures(f"{name}-cost", key) or {}))
    _gather(run, (task.condition, task.mode, row), name, key, candidate.ct)
    return candidate.ct


def _evaluate_ceilings(run: _Run, case: Case, others: list[Path]) -> None:
    """Other persons against this one: some as they are (``real``), and the one who fits best, moved onto this grid (``nearest``)."""
    cache, plan = run.plan.regions, run.plan
    some = [others[n] for n in sorted({round(n) for n in np.linspace(0, len(others) - 1, min(MOST_OTHERS, len(others)))})]
    if "real" in plan.rows:
        for folder in some:
            def compare(folder=folder):
                return measures.person_against(load_case(folder, cache), case)

            key = key_of(case.name, folder.name, source_of("regions.py", "volume.py"))
            figures = _figures(run, f"{case.name}/real-{folder.name}", key, compare)
            run.records.append({"case": case.name, "row": "real", "person": folder.name} | figures)
        _gather(run, ("", "", "real"), f"{case.name}/real", key_of(case.name, case.ct.array), case.ct)
    if "nearest" in plan.rows:
        key = key_of(case.name, *(f.name for f in others), source_of("evaluation/ceilings.py", "evaluation/cases.py", "regions.py"))
        name = f"{case.name}/nearest"
        found = run.kept.figures(f"{name}-place", key)
        if found is None:
            placed = ceilings.nearest(case, (load_case(folder, cache) for folder in others))
            found = {"person": placed.person.name, "overlap": placed.overlap, "shift": list(placed.shift)}
            run.kept.keep_figures(f"{name}-place", key, found)
            run.report(f"{name}: {placed.person.name}, overlap {placed.overlap:.2f}")
        person = load_case(next(f for f in others if f.name == found["person"]), cache)
        moved = ceilings.on_grid_of(case, ceilings.Placed(person, found["overlap"], np.array(found["shift"])))
        figures = _figures(run, name, key, lambda: measures.person_against(moved, case))
        run.records.append({"case": case.name, "row": "nearest", "person": person.name} | figures)
        _gather(run, ("", "", "nearest"), name, key, moved.ct)


def _figures(run: _Run, name: str, key: str, make) -> dict | None:
    key = key_of(key, source_of(*_METRICS))
    figures = run.kept.figures(name, key)
    if figures is None:
        started = time.monotonic()
        figures = make()
        if figures is not None:
            run.kept.keep_figures(name, key, figures)
            run.report(f"{name}: measured in {time.monotonic() - started:.0f} s")
    return figures


# ------------------------------------------------------------------------------------------------------------- over all cases together


def summary(records: list[dict], distances: list[dict] = ()) -> list[dict]:
    """Means over the cases by condition, mode and row; an error has no sign here, so that two cannot cancel."""
    groups = defaultdict(list)
    for record in records:
        groups[record.get("condition", ""), record.get("mode", ""), record["row"]].append(record)
    result = []
    for (condition, mode, row), members in groups.items():
        entry = {"condition": condition, "mode": mode, "row": row, "cases": len({m["case"] for m in members})}
        for key in dict.fromkeys(k for m in members for k, v in m.items() if isinstance(v, float)):
            values = [m[key] for m in members if isinstance(m.get(key), float) and math.isfinite(m[key])]
            if values:
                entry[key] = float(np.mean(values))
        result.append(entry)
        for more in distances:
            if (more["condition"], more["mode"], more["row"]) == (condition, mode, row):
                entry |= more
    whole = {(e["mode"], e["row"]): e.get("dice_ratio") for e in result if e["condition"] == "regions"}
    for entry in result:
        if entry["condition"] == "half" and "dice_ratio" in entry and whole.get((entry["mode"], entry["row"])) is not None:
            entry["dice_fall"] = whole[entry["mode"], entry["row"]] - entry["dice_ratio"]
    return result


def real_ranges(records: list[dict]) -> dict[str, tuple[float, float]]:
    """Smallest and largest of each figure between two real persons."""
    found = defaultdict(list)
    for record in records:
        if record["row"] == "real":
            for key, value in record.items():
                if isinstance(value, float) and math.isfinite(value):
                    found[key].append(value)
    return {key: (min(values), max(values)) for key, values in found.items()}


def _gather(run: _Run, group, name: str, key: str, ct) -> None:
    """Keep the features of the slices of ``ct`` (a Volume, or what reads one) for the Fréchet distances."""
    key = key_of(key, source_of(*_FEATURES), _segmenter(), str(run.plan.inception or ""))
    features = run.kept.features(name, key)
    if features is None:
        features = run.optional("Fréchet distances", _features, ct() if callable(ct) else ct, run.plan.inception)
        if features is None:
            return
        run.kept.keep_features(name, key, features)
    run.features[group].append(features)


def _segmenter() -> str:
    """Checksum of the re-segmenter's weights."""
    try:
        return load_card("segmenter").sha256
    except UnusableInput:
        return ""


def _features(ct: Volume, inception: Path | None) -> dict[str, np.ndarray]:
    """Features (n, d) of the slices of each plane: the re-segmenter's, or the usual Inception network's where the user has it."""
    if inception:
        from .inception import all_planes

        return all_planes(ct, inception)
    from .distribution import all_planes

    return all_planes(ct)


def _distances(run: _Run, others: list[Path]) -> list[dict]:
    """Fréchet distance of each row's volumes to other real persons, beside that of the real cases themselves, plane by plane.

    All are taken over equally many slices. The nearest other person is compared with the rest of the others.
    """
    if not run.features or not others:
        return []
    from .distribution import frechet_interval

    away = {}
    for folder in others:
        name, key = f"others/{folder.name}", key_of(folder.name, source_of("evaluation/cases.py"))
        _gather(run, ("", "", folder.name), name, key, lambda folder=folder: load_case(folder, run.plan.regions).ct)
        away[folder.name] = run.features.pop(("", "", folder.name))[0]
    nearest = {record["person"] for record in run.records if record["row"] == "nearest"}
    found = []
    for (condition, mode, row), own in run.features.items():
        entry = {"condition": condition, "mode": mode, "row": row}
        rest = [features for name, features in away.items() if row != "nearest" or name not in nearest]
        for plane in PLANES if rest else ():
            n = min(sum(len(f[plane]) for f in side) for side in (*run.features.values(), rest))
            distance = frechet_interval([f[plane] for f in own], [f[plane] for f in rest], n=n)
            entry |= {f"frechet.{plane}": distance["frechet"], f"frechet_range.{plane}": [distance["low"], distance["high"]]}
        if run.plan.inception and row in METHODS:
            entry["inception_score"] = _inception_score(run.plan, f"{condition}-{mode}-{row}")
        found.append(entry)
    return _over_real(found)


def _inception_score(plan: Plan, name: str) -> float:
    from ..files import read_volume
    from .inception import inception_score

    return inception_score([read_volume(path) for path in sorted((plan.out / "volumes").glob(f"*/{name}.nrrd"))], plan.inception)


def _over_real(found: list[dict]) -> list[dict]:
    """Adds each distance over that of the real cases, and for the model over the best of the other rows of its condition and mode."""
    real = next((e for e in found if e["row"] == "real"), {})
    for entry in found:
        same = [e for e in found if (e["condition"], e["mode"]) == (entry["condition"], entry["mode"]) and e is not entry]
        for plane in PLANES:
            own = entry.get(f"frechet.{plane}", math.nan)
            if real.get(f"frechet.{plane}", 0) > 0:
                entry[f"frechet_ratio.{plane}"] = own / real[f"frechet.{plane}"]
            if entry["row"] == "model" and same:
                entry[f"frechet_lead.{plane}"] = own / max(min(e.get(f"frechet.{plane}", math.inf) for e in same), 1e-9)
    return found


def _audit(run: _Run, folders: list[Path], others: list[Path]) -> dict:
    """The memorisation audit of the model's volumes that this evaluation has kept."""
    from ..files import read_volume
    from .audit import audit

    paths = sorted((run.plan.out / "volumes").glob("*/*-model.nrrd"))
    if not paths or not others:
        raise UnusableInput("the audit needs volumes of the row 'model' and the training persons (--training DIR)")
    return audit([read_volume(p) for p in paths], *([read_volume(f / "ct.nrrd") for f in side] for side in (others, folders)))


def _pictures(run: _Run, task: Task, drawn: dict[str, Volume]) -> None:
    from .evaluation_pictures import all_methods, real_above_synthetic

    case, folder = task.case, run.plan.out / "pictures"
    title = f"{case.name}  ·  {task.condition}, {task.mode}  ·  seed {run.plan.seed}"
    made = [all_methods(case, drawn, folder / f"{case.name}-{task.condition}-{task.mode}-methods.png", title)]
    if "model" in drawn:
        made.append(real_above_synthetic(case, drawn["model"], folder / f"{case.name}-{task.condition}-{task.mode}.png", title))
    run.pictures += [path.relative_to(run.plan.out).as_posix() for path in made]
