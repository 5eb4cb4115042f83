"""The figures of the nodule experiment, and its page of Markdown."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from .detection import accuracy, auc, with_interval

ARMS = {"real": "real scans only", "synthetic": "synthetic volumes only", "fine-tuned": "synthetic, then real"}
MARKED = "marked"  # the test set of nodules that people marked, kept and erased
ALL = "all sizes"


def measured(probabilities: dict[int, dict[str, dict[str, np.ndarray]]], labels: dict[str, np.ndarray]) -> dict:
    """``test set → arm → figures`` with intervals; ``probabilities`` are by seed, arm and test set, ``labels`` by test set.

    ``more_than_real`` is the accuracy above that of the arm of real scans on the same samples.
    """
    sizes = [name for name in labels if name != MARKED]
    sets = {name: (labels[name], [name]) for name in labels}
    sets[ALL] = (np.concatenate([labels[name] for name in sizes]), sizes)
    figures: dict = {}
    for name, (truth, parts) in sets.items():
        rows = {
            arm: np.stack([np.concatenate([of_seed[arm][part] for part in parts]) for of_seed in probabilities.values()])
            for arm in ARMS
            if all(arm in of_seed for of_seed in probabilities.values())
        }
        figures[name] = {}
        for arm, found in rows.items():
            called = found > 0.5
            figures[name][arm] = {
                "accuracy": asdict(with_interval(accuracy, found, truth)),
                "auc": asdict(with_interval(auc, found, truth)),
                "accuracy_of_seeds": [accuracy(one, truth) for one in found],
                "found": float(called[:, truth == 1].mean()) if (truth == 1).any() else float("nan"),
                "false_alarms": float(called[:, truth == 0].mean()) if (truth == 0).any() else float("nan"),
                "samples": len(truth),
            }
            if arm != "real" and "real" in rows:
                figures[name][arm]["more_than_real"] = asdict(with_interval(accuracy, found, truth, against=rows["real"]))
    return figures


def as_markdown(result: dict) -> str:
    """The page for what :func:`CTSynthesisLib.evaluation.nodule_experiment.run_experiment` returns."""
    persons, figures, sampling = result["persons"], result["figures"], result["sampling"]
    what = "whole chests" if sampling["whole"] else "volumes of interest"
    side = f"{sampling['voxels']}³ voxels of {sampling['spacing']:g} mm"
    lines = [
        "# Nodule experiment (paper 004, figure 3b)",
        "",
        f"{result['seeds']} seeds; {what} of {side}; nodules injected and erased by: {result['injector']}. "
        f"Training: {len(persons['training'])} persons (marked nodules: {result['marked_nodules']['training']}), "
        f"{len(persons['synthetic'])} synthetic volumes. Measured on {len(persons['test'])} held-out persons "
        f"(marked nodules: {result['marked_nodules']['test']}): {', '.join(persons['test'])}.",
        "",
        "Nodules by size are **stand-ins**: injected into real scans of the held-out persons, beside clean places of the same scans. "
        f"**{MARKED}** are nodules that people marked, beside the same places with the nodule erased. "
        "Intervals: 95 %, bootstrap over samples; they speak of other places in these persons, not of other persons.",
        "",
    ]
    for seed, counts in result["training_samples"].items():
        lines.append(f"- seed {seed}: " + "; ".join(f"{name}: {_counts(made, name)}" for name, made in counts.items()))
    tests = [name for name in figures if name not in (MARKED, ALL)] + [name for name in (ALL, MARKED) if name in figures]
    for title, figure in (("Accuracy", "accuracy"), ("Area under the ROC curve", "auc"), ("Accuracy above real only", "more_than_real")):
        arms = [arm for arm in ARMS if any(figure in figures[test].get(arm, {}) for test in tests)]
        if arms:
            lines += ["", f"## {title}", "", _row(["nodules", "samples", *(ARMS[arm] for arm in arms)])]
            lines += ["|---|" + "---:|" * (len(arms) + 1)]
            lines += [_row([test, str(figures[test][arms[0]]["samples"]), *(_cell(figures[test][arm][figure], figure) for arm in arms)])
                      for test in tests]  # fmt: skip
    lines += ["", "## Found, and false alarms", "", _row(["nodules", *(ARMS[arm] for arm in figures[tests[0]])])]
    lines.append("|---|" + "---:|" * len(figures[tests[0]]))
    for test in tests:
        lines.append(_row([test, *(f"{one['found']:.0%}, {one['false_alarms']:.0%}" for one in figures[test].values())]))
    lines += ["", f"{result['minutes']:.1f} minutes ({result['process_minutes']:.1f} of processor time for the arms).", ""]
    lines += [f"- {sentence}" for sentence in result["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _counts(made: dict, name: str) -> str:
    told = {"kept": "marked nodules kept", "erased": "marked nodules erased", "clean": "clean",
            "injected": "injected" if name == "synthetic" else "injected (stand-ins)"}  # fmt: skip
    return ", ".join(f"{count} {told[one]}" for one, count in made.items() if count)


def _cell(figure: dict, name: str) -> str:
    sign = "+" if name == "more_than_real" else ""
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"
