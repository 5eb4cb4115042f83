"""The experiment of paper 004 (section 4.2, figure 3b): do synthetic scans help to train a nodule classifier?

Three arms: trained on real scans only, on synthetic ones only, and on synthetic ones and then on the real ones. Each is trained with
several seeds, which choose the classifier's first weights and where nodules are injected, and measured on persons that no arm has seen, for
six sizes of nodules. Real scans are free of device bias (figure 3a) by :mod:`CTSynthesisLib.training.nodule_samples`.

Nodules that people marked are real. Those injected into real scans are *stand-ins*, and the report names them so wherever it counts them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import UnusableInput
from ..training.loop import training_device
from ..training.nodule_classifier import SIZES_MM, NoduleClassifierRecipe, fit, probabilities, trained_weights
from ..training.nodule_hands import Hands, networks
from ..training.nodule_samples import MADE, Chest, Sample, Sampling, cut, load_chests, marked_samples, nodules_of, plan
from ..training.nodule_scans import Scan, find_scans
from .detection import accuracy
from .kept import Kept, key_of, source_of, write_json
from .nodule_tables import MARKED, as_markdown, measured

SHARES = (0.75, 0.125, 0.125)  # training, validation, test: the paper's 900, 150 and 150 scans


@dataclass(frozen=True)
class NodulePlan:
    """What to run. ``held_out`` are persons (or paths of their folders) to measure on; without any, an eighth of the persons is drawn for
    it and another for validation. ``synthetic`` is a folder of synthetic volumes. Numbers of samples are of one seed, or of one test."""

    data: Path
    out: Path
    synthetic: Path | None = None
    held_out: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    seeds: int = 3
    sizes: tuple[float, ...] = SIZES_MM
    real_samples: int = 200
    synthetic_samples: int = 600
    test_samples: int = 90
    sampling: Sampling = field(default_factory=Sampling)
    recipe: NoduleClassifierRecipe = field(default_factory=NoduleClassifierRecipe)
    fine_tuning: int = 150  # iterations
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Cut:
    """Samples, their voxels, and their labels; -1 where injector or eraser refused."""

    samples: list[Sample]
    voxels: np.ndarray
    labels: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        usable = [sample.made for sample, label in zip(self.samples, self.labels, strict=True) if label >= 0]
        return {made: usable.count(made) for made in MADE}

    def measure(self, network) -> np.ndarray:
        """Probabilities of the samples that could be made."""
        return probabilities(network, self.voxels)[self.labels >= 0]

    @property
    def truth(self) -> np.ndarray:
        return self.labels[self.labels >= 0]


def run_experiment(plan_: NodulePlan, hands: Hands | None = None, report: Callable[[str], None] = print) -> dict:
    """Train, measure, write ``nodules.json`` and ``nodules.md`` into ``plan_.out``; returns what the former holds.

    Started again with the same plan it goes on where it was broken off.

    Raises
    ------
    UnusableInput
        If no person with lungs is left to train or to measure on.
    """
    started = time.monotonic()
    device = training_device(plan_.device)
    notes: list[str] = []

    def note(line):
        if line.startswith("note: "):
            notes.append(line.removeprefix("note: "))
        report(line)

    hands = hands or networks()
    parts = _split(plan_, note)
    _need("scan", parts, plan_)
    chests = {name: load_chests(scans, plan_.out / "lungs" / name, note) for name, scans in parts.items()}
    _need("scan with lungs", chests, plan_)
    sets = _test_sets(plan_, chests["test"], hands, note)
    validation = None
    if chests["validation"]:
        samples = plan(chests["validation"], plan_.test_samples, plan_.sampling, diameters=plan_.sizes, seed=8000)
        validation = _cut(plan_, "validation", chests["validation"], hands, note, samples)
    kept, probabilities_of, training_of, process = Kept(plan_.out), {}, {}, time.process_time()
    for seed in range(plan_.seed, plan_.seed + plan_.seeds):
        probabilities_of[seed], training_of[seed] = _one_seed(plan_, seed, chests, sets, validation, hands, device, kept, note)
    result = {
        "persons": {name: sorted({chest.scan.person for chest in some}) for name, some in chests.items()},
        "scans": {name: len(some) for name, some in chests.items()},
        "marked_nodules": {name: sum(len(nodules_of(chest.scan)) for chest in some) for name, some in chests.items()},
        "injector": hands.name, "seeds": plan_.seeds, "sizes_mm": plan_.sizes, "sampling": asdict(plan_.sampling),
        "recipe": asdict(plan_.recipe), "fine_tuning": plan_.fine_tuning, "training_samples": training_of,
        "test_samples": {name: one.counts for name, one in sets.items()},
        "figures": measured(probabilities_of, {name: one.truth for name, one in sets.items()}),
        "minutes": (time.monotonic() - started) / 60, "process_minutes": (time.process_time() - process) / 60, "notes": notes,
    }  # fmt: skip
    write_json(plan_.out / "nodules.json", result)
    (plan_.out / "nodules.md").write_text(as_markdown(result), encoding="utf-8")
    return result


def _need(what, parts, plan_: NodulePlan):
    for name in ("training", "test"):
        if not parts[name]:
            raise UnusableInput(f"No {what} is left for {name}; give more scans in {plan_.data}, or hold out other persons.")


def _split(plan_: NodulePlan, note) -> dict[str, list[Scan]]:
    """Scans for training, validation, test and of synthetic volumes; whole persons stay together."""
    scans = [scan for scan in find_scans(plan_.data, note) if not {scan.name, scan.person} & set(plan_.leave_out)]
    synthetic = find_scans(plan_.synthetic, note) if plan_.synthetic else []
    parts: dict[str, list[Scan]] = {"training": [], "validation": [], "test": [], "synthetic": synthetic}
    if not plan_.synthetic:
        note("note: no folder of synthetic volumes was given (--synthetic), so only the arm of real scans is run.")
    if plan_.held_out:
        for name in plan_.held_out:
            found = [scan for scan in scans if name in (scan.name, scan.person)] or (find_scans(name, note) if Path(name).is_dir() else [])
            if not found:
                known = ", ".join(scan.name for scan in scans[:12])
                raise UnusableInput(f"There is no case '{name}' in {plan_.data}; the cases there are: {known}.")
            parts["test"] += [replace(scan, name=Path(name).name, person=Path(name).name) if scan not in scans else scan for scan in found]
        persons = {scan.person for scan in parts["test"]}
        parts["training"] = [scan for scan in scans if scan.person not in persons]
        return parts
    rng = np.random.default_rng((plan_.seed, 5))
    for marked in (True, False):  # stratified: persons with marked nodules, and those without
        persons = sorted({scan.person for scan in scans if any(s.lesions for s in scans if s.person == scan.person) == marked})
        bounds = np.rint(np.cumsum(SHARES) * len(persons)).astype(int)
        part_of = {persons[n]: int(np.searchsorted(bounds, rank, "right")) for rank, n in enumerate(rng.permutation(len(persons)))}
        for scan in scans:
            if scan.person in part_of:
                parts[("training", "validation", "test")[part_of[scan.person]]].append(scan)
    return parts


def _test_sets(plan_: NodulePlan, chests: list[Chest], hands, note) -> dict[str, Cut]:
    """For each size, stand-ins and clean places of the held-out persons; and their marked nodules, kept and erased."""
    sets = {}
    for size in plan_.sizes:
        name, seed = f"{size:g} mm", 9000 + round(size)
        sets[name] = _cut(plan_, f"test {name}", chests, hands, note,
                          plan(chests, plan_.test_samples, plan_.sampling, diameters=(size,), seed=seed, marked=False))  # fmt: skip
    sets[MARKED] = _cut(plan_, "test marked", chests, hands, note, marked_samples(chests, plan_.sampling, seed=9000))
    return {name: one for name, one in sets.items() if one.samples}


def _one_seed(plan_: NodulePlan, seed, chests, sets, validation, hands, device, kept, note):
    """The three arms of one seed: probabilities of every test set by arm, and what was trained on."""
    recipe, folder = replace(plan_.recipe, seed=seed, sampling=plan_.sampling), plan_.out / "trained" / f"seed-{seed}"
    plans = {"real": plan(chests["training"], plan_.real_samples, plan_.sampling, diameters=plan_.sizes, seed=seed)}
    if chests["synthetic"]:
        plans["synthetic"] = plan(chests["synthetic"], plan_.synthetic_samples, plan_.sampling, diameters=plan_.sizes, seed=seed)
    scans = {"real": chests["training"], "synthetic": chests["synthetic"]}
    cuts = {name: _cut(plan_, f"{name} {seed}", scans[name], hands, note, samples) for name, samples in plans.items()}
    arms = [("real", "real", None, recipe.iterations)]
    if "synthetic" in cuts:
        arms += [("synthetic", "synthetic", None, recipe.iterations), ("fine-tuned", "real", "synthetic", plan_.fine_tuning)]
    found = {}
    check = (validation.voxels, validation.labels) if validation else None
    for arm, trained_on, start, iterations in arms:
        one = cuts[trained_on]
        used = [asdict(sample) for c in (*cuts.values(), *sets.values()) for sample in c.samples]
        key = key_of(arm, asdict(recipe), iterations, used, hands.name, source_of("training", "networks/squeezenet3d.py"))
        name = f"{arm} {seed}"
        if kept.figures(name, key) is None:
            note(f"seed {seed}: training on {arm} ({len(one.samples)} samples, {iterations} iterations)")
            shutil.rmtree(folder / arm, ignore_errors=True)
            begin = trained_weights(folder / start) if start else None
            network, _ = fit(one.voxels, one.labels, folder / arm, recipe, iterations=iterations, device=device, start=begin,
                             validation=check)  # fmt: skip
            kept.keep_figures(name, key, {test: c.measure(network).tolist() for test, c in sets.items()})
        found[arm] = {test: np.array(values) for test, values in kept.figures(name, key).items()}
        note(f"seed {seed}: {arm}: " + ", ".join(f"{t} {accuracy(p, sets[t].truth):.2f}" for t, p in found[arm].items()))
    return found, {name: one.counts for name, one in cuts.items()}


def _cut(plan_, name, chests, hands, note, samples) -> Cut:
    file = plan_.out / "samples" / f"{name}.npy"
    more = {"inject": hands.inject, "erase": hands.erase, "made_by": hands.name, "report": note}
    return Cut(samples, *cut(samples, chests, plan_.sampling, file, **more))
