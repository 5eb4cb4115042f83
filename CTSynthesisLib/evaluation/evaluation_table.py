"""The evaluation as one page of Markdown: the model against its targets, then a table for each condition and mode, one row a method."""

from __future__ import annotations

import math

from .targets import FIGURES, judge

MARKS = {True: " ✓", False: " ✗", None: ""}
TITLES = {
    "contours": "contours (what people draw; the headline)",
    "regions": "coarse region map",
    "half": "half of the structures dropped",
    "lone": "a lone structure, outline derived",
    "body": "outline of the body only",
}
ROW_TITLES = {
    "model": "**model**",
    "per_slice": "model, slice by slice",
    "spectrum": "means + noise of matched spectrum",
    "white": "means + white noise",
    "mean": "means",
    "nearest": "_ceiling: nearest other person_",
    "real": "_ceiling: other persons_",
}
WITHOUT_NETWORK = ("per_slice", "spectrum", "white", "mean")


def as_markdown(result: dict) -> str:
    """The page for what :func:`CTSynthesisLib.evaluation.evaluate.evaluate` returns."""
    model = result["model"]
    lines = [
        f"# Evaluation of the model {model.get('name', '(none)')} {model.get('version', '')}".rstrip(),
        "",
        f"Cases: {', '.join(result['cases'])}. Other persons: {len(result['other_persons'])}. Seed {result['seed']}. Means over the cases; "
        "✓ and ✗ say whether a target holds. Where a cell gives one number for several tissues it is the worst of them; **none** means "
        "that the method drew nothing of what was to be measured. A tissue that the mask told is compared in place, one that had to be "
        "made up is looked for in both scans by the same rules. Seconds are scaled from the cases to 256 × 256 × 128 voxels, on this "
        "machine as busy as it was: `ctsynthesis benchmark` measures them properly.",
        "",
    ]
    lines += [f"- {sentence}" for sentence in result["absent"]]
    lines += _against_targets(result) + _against_rows(result)
    for condition in TITLES:
        for mode in ("given", "blind"):
            entries = [e for e in result["summary"] if (e["condition"], e["mode"]) == (condition, mode)]
            if entries:
                entries += [e for e in result["summary"] if not e["condition"]]
                lines += _table(f"{TITLES[condition]}, {mode}", entries, mode, result["real_ranges"])
    return "\n".join(lines) + "\n"


def _against_targets(result):
    """The issue's table with what the model reaches, condition by condition."""
    entries = {(e["condition"], e["mode"]): e for e in result["summary"] if e["row"] == "model"}
    if not entries:
        return []
    heads = [f"{condition}, {mode}" for condition, mode in entries]
    lines = ["", "## The model against its targets", "", _row(["figure", "target given", "target blind", *heads]), _rule(3 + len(heads))]
    for figure in FIGURES:
        cells = [_cell(figure, entry, mode, result["real_ranges"]) for (_, mode), entry in entries.items()]
        lines.append(_row([figure.name, figure.given, figure.blind, *cells]))
    return lines


def _against_rows(result):
    """Texture, coherence and distribution of every row: how far each is from real, 0 being equal."""
    lines = ["", "## Texture, coherence and distribution together", "",
             "Distance from real: texture = mean of the spectrum's and the spreads' absolute log ratio; coherence = mean absolute log "
             "ratio of the neighbour changes; distribution = mean Fréchet distance over real-vs-real. Smaller is better; together = their "
             "geometric mean.",
             "", _row(["condition, mode", "row", "texture", "coherence", "distribution", "together"]), _rule(6)]  # fmt: skip
    for condition in TITLES:
        for mode in ("given", "blind"):
            entries = [e for e in result["summary"] if (e["condition"], e["mode"]) == (condition, mode)]
            scores = {e["row"]: distances_from_real(e) for e in entries}
            order = sorted(scores, key=lambda row: scores[row][-1] if math.isfinite(scores[row][-1]) else math.inf)
            lines += [_row([f"{condition}, {mode}", ROW_TITLES[row], *(_number(s, 2) for s in scores[row])]) for row in order]
    return lines if len(lines) > 7 else []


def distances_from_real(entry: dict) -> tuple[float, float, float, float]:
    """Texture, coherence, distribution, and the geometric mean of those that were measured."""
    spreads = [abs(math.log(max(v, 1e-3))) for k, v in entry.items() if k.startswith("spread_ratio.") and k.split(".")[1] in _TISSUES]
    changes = [abs(math.log(max(v, 1e-3))) for k, v in entry.items() if k.startswith("change.")]
    frechet = [v for k, v in entry.items() if k.startswith("frechet_ratio.")]
    parts = (_mean([v for v in (entry.get("spectrum", math.nan), _mean(spreads)) if math.isfinite(v)]), _mean(changes), _mean(frechet))
    measured = [max(p, 1e-3) for p in parts if math.isfinite(p)]
    return *parts, math.exp(_mean([math.log(p) for p in measured])) if measured else math.nan


_TISSUES = ("soft_tissue", "fat", "bone", "lungs", "blood")


def _table(title, entries, mode, ranges):
    heads = ["method", *(figure.name for figure in FIGURES), "mean absolute error / SSIM / PSNR in the body", "seconds; peak MB"]
    lines = ["", f"## {title}", "", _row(heads), _rule(len(heads)), _row(["target", *(figure.target(mode) for figure in FIGURES), "", ""])]
    for entry in sorted(entries, key=lambda e: list(ROW_TITLES).index(e["row"])):
        cells = [_cell(figure, entry, mode, ranges, marks=entry["row"] != "real") for figure in FIGURES]
        image = " / ".join(_number(entry.get(key), digits) for key, digits in (("mae", 0), ("ssim", 2), ("psnr", 1)))
        cost = f"{_number(entry.get('seconds'), 1)}; {_number(entry.get('peak_mb'), 0)}"
        lines.append(_row([ROW_TITLES[entry["row"]], *cells, image.replace("– / – / –", "–"), cost.replace("–; –", "–")]))
    return lines


def _cell(figure, entry, mode, ranges, marks=True):
    text, holds = judge(figure, entry, mode, ranges)
    return text + (MARKS[holds] if marks else "")


def _number(value, digits):
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _mean(values):
    return sum(values) / len(values) if values else math.nan


def _row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rule(columns):
    return "|" + " --- |" * columns
