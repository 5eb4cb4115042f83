"""What the default model has to reach, figure by figure, and whether a row of figures does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

PLANES = ("axial", "sagittal", "coronal")
SPREAD_OF = ("soft_tissue", "fat", "bone", "lungs", "blood")  # tissues whose histograms have targets; vessels depend on the map's detail
REAL_RANGE = "inside the real-vs-real range"


@dataclass(frozen=True)
class Limit:
    """One number of a figure: the worst of some ``keys`` of the record, and the range it has to lie in, in each mode.

    Where ``blind`` is None the range is that between other real persons; a distance then only has to stay below the largest. A limit
    without a ``label`` is held, but not shown. Where a tissue that the real scan has is missing from the drawn one, its limits do not hold.
    """

    label: str
    keys: tuple[str, ...]
    given: tuple[float, float]
    blind: tuple[float, float] | None  # None: inside the real-vs-real range
    digits: int = 0
    signed: bool = False  # both sides of the range count (a ratio, around 1)
    of: str = ""  # the tissue without which there is nothing to measure

    def range(self, key: str, mode: str, ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
        if mode == "given" or self.blind is not None:
            return self.given if mode == "given" else self.blind
        found = ranges.get(key)
        return found and (found if self.signed else (-math.inf, found[1]))

    def read(self, figures: Mapping[str, float], mode: str, ranges) -> tuple[str, bool | None]:
        """The number as text, and whether it holds (None where it was not measured or there is nothing to hold it against)."""
        values = {key: figures[key] for key in self.keys if key in figures and math.isfinite(figures[key])}
        missing = any(figures.get(f"missing.{tissue}", 0) > 0.5 for tissue in {k.partition(".")[2] for k in self.keys} | {self.of} - {""})
        if not values:
            return ("**none**", False) if missing else ("–", None)
        if self.signed and len(values) > 1:
            text = f"{min(values.values()):.{self.digits}f}-{max(values.values()):.{self.digits}f}"
        else:
            text = f"{max(values.values(), key=abs):.{self.digits}f}"
        limits = {key: self.range(key, mode, ranges) for key in values}
        if any(limit is None for limit in limits.values()):
            return text, False if missing else None
        return text, not missing and all(limits[key][0] <= value <= limits[key][1] for key, value in values.items())


@dataclass(frozen=True)
class Figure:
    """A column of the table: the issue's name for it, its targets in the issue's words, and the numbers it consists of."""

    name: str
    given: str
    blind: str
    limits: tuple[Limit, ...]

    def target(self, mode: str) -> str:
        return self.given if mode == "given" else self.blind


def _up_to(label, keys, given, blind=None, digits=0):
    return Limit(label, keys, (-given, given), None if blind is None else (-blind, blind), digits)


def _between(label, keys, low, high, blind="same", digits=2):
    return Limit(label, keys, (low, high), (low, high) if blind == "same" else None, digits, signed=True)


INF = math.inf
FIGURES = (
    Figure("median HU error: soft tissue and blood / lung / bone", "≤ 10 / 15 / 40 HU", "≤ 20 / 60 / 80 HU (phase given for blood)", (
        _up_to("soft tissue and blood", ("median_error.soft_tissue", "median_error.blood"), 10, 20),
        _up_to("lung", ("median_error.lungs",), 15, 60),
        _up_to("bone", ("median_error.bone",), 40, 80),
    )),
    Figure("spread ratio; histogram Wasserstein", "0.85-1.18; ≤ 25 HU", REAL_RANGE, (
        _between("spread", tuple(f"spread_ratio.{t}" for t in SPREAD_OF), 0.85, 1.18, blind=None),
        _up_to("Wasserstein", tuple(f"wasserstein.{t}" for t in SPREAD_OF), 25),
    )),
    Figure("noise spectrum (mean absolute log ratio)", "≤ 0.25", REAL_RANGE, (
        Limit("spectrum", ("spectrum",), (0, 0.25), None, 2, of="grain"),
    )),
    Figure("neighbour-slice change, all planes", "0.85-1.18 of real", "same", (
        _between("sagittal", ("change.i",), 0.85, 1.18),
        _between("coronal", ("change.j",), 0.85, 1.18),
        _between("axial", ("change.k",), 0.85, 1.18),
    )),
    Figure("lungs as one label: vessel volume; cross-slice length", "0.7-1.4; ≥ 0.6 of real", "same", (
        Limit("volume", ("vessel_volume",), (0.7, 1.4), (0.7, 1.4), 2, of="lungs"),
        Limit("length", ("vessel_length",), (0.6, INF), (0.6, INF), 2, of="lungs"),
    )),
    Figure("bone: cortex-to-marrow profile; body only: fat and muscle fractions", "≤ 80 HU; ± 10 points", "same", (
        Limit("profile", ("bone_profile",), (0, 80), (0, 80), of="bone"),
        _up_to("fat", ("fat_points",), 10, 10),
        _up_to("muscle", ("muscle_points",), 10, 10),
    )),
    Figure("re-segmentation Dice, synthetic / real; with half the labels dropped", "≥ 0.92; falls ≤ 0.03", "≥ 0.90", (
        Limit("Dice ratio", ("dice_ratio",), (0.92, INF), (0.90, INF), 2),
        Limit("fall", ("dice_fall",), (-INF, 0.03), (-INF, 0.03), 2),
    )),
    Figure("Fréchet per plane", "≤ 2 × real-vs-real and below every non-ceiling row", "≤ 2.5 ×", (
        *(Limit(plane, (f"frechet_ratio.{plane}",), (-INF, 2.0), (-INF, 2.5), 1) for plane in PLANES),
        Limit("", tuple(f"frechet_lead.{plane}" for plane in PLANES), (-INF, 1.0), (-INF, INF)),
    )),
    Figure("block borders above interior", "≤ 1 HU", "same", (Limit("borders", ("border_jump",), (-INF, 1.0), (-INF, 1.0), 1),)),
    Figure("256×256×128 warm, 2 cores", "≤ 4 s (stretch 3 s)", "same", (Limit("seconds", ("seconds_scaled",), (0, 4), (0, 4), 1),)),
)  # fmt: skip


def judge(figure: Figure, figures: Mapping[str, float], mode: str, ranges: Mapping[str, tuple[float, float]]) -> tuple[str, bool | None]:
    """A cell of the table: the figure's numbers and whether all that were measured hold (None where none could be judged)."""
    texts, held = zip(*(limit.read(figures, mode, ranges) for limit in figure.limits), strict=True)
    judged = [h for h in held if h is not None]
    shown = [text for text, limit in zip(texts, figure.limits, strict=True) if limit.label]
    if all(text == "–" for text in shown):
        return "–", None
    return " / ".join(shown), all(judged) if judged else None
