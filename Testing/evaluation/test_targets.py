"""The issue's targets: what holds, what does not, and what cannot be said."""

import math

import pytest

from CTSynthesisLib.evaluation.targets import FIGURES, judge

HOUNSFIELD, SPREAD, SPECTRUM, CHANGE, VESSELS, BONE, DICE, FRECHET, BORDERS, SPEED = FIGURES


@pytest.mark.parametrize(("bone", "mode", "holds"), [(39, "given", True), (41, "given", False), (79, "blind", True), (81, "blind", False)])
def test_an_error_holds_up_to_its_limit(bone, mode, holds):
    figures = {"median_error.soft_tissue": 9.0, "median_error.blood": 3.0, "median_error.lungs": 14.0, "median_error.bone": float(bone)}
    assert judge(HOUNSFIELD, figures, mode, {}) == (f"9 / 14 / {bone}", holds)


def test_the_worst_structure_decides():
    figures = {"spread_ratio.lungs": 0.7, "spread_ratio.bone": 1.0, "wasserstein.lungs": 12.0, "wasserstein.bone": 24.0}
    assert judge(SPREAD, figures, "given", {}) == ("0.70-1.00 / 24", False)
    assert judge(SPREAD, figures | {"spread_ratio.lungs": 0.9}, "given", {}) == ("0.90-1.00 / 24", True)


def test_blind_figures_are_held_against_other_real_persons():
    ranges = {"spread_ratio.lungs": (0.6, 1.5), "wasserstein.lungs": (8.0, 60.0), "spectrum": (0.2, 0.9)}
    assert judge(SPREAD, {"spread_ratio.lungs": 0.65, "wasserstein.lungs": 2.0}, "blind", ranges)[1] is True
    assert judge(SPREAD, {"spread_ratio.lungs": 0.55, "wasserstein.lungs": 2.0}, "blind", ranges)[1] is False
    assert judge(SPECTRUM, {"spectrum": 1.0}, "blind", ranges)[1] is False
    assert judge(SPECTRUM, {"spectrum": 1.0}, "blind", {})[1] is None, "no other person to hold it against"


def test_what_was_not_measured_is_not_judged_but_a_missing_tissue_fails():
    assert judge(VESSELS, {}, "given", {}) == ("–", None)
    assert judge(VESSELS, {"vessel_volume": math.nan}, "given", {}) == ("–", None)
    assert judge(HOUNSFIELD, {"median_error.soft_tissue": 2.0, "missing.bone": 1.0}, "given", {}) == ("2 / – / **none**", False)
    assert judge(BONE, {"missing.bone": 1.0, "fat_points": 1.0, "muscle_points": 2.0}, "blind", {}) == ("**none** / 1 / 2", False)


def test_the_frechet_distance_has_to_beat_the_other_rows_when_given():
    ratios = {f"frechet_ratio.{plane}": 1.5 for plane in ("axial", "sagittal", "coronal")}
    behind = {f"frechet_lead.{plane}": 1.2 for plane in ("axial", "sagittal", "coronal")}
    assert judge(FRECHET, ratios, "given", {}) == ("1.5 / 1.5 / 1.5", True)
    assert judge(FRECHET, ratios | behind, "given", {}) == ("1.5 / 1.5 / 1.5", False)
    assert judge(FRECHET, ratios | behind, "blind", {}) == ("1.5 / 1.5 / 1.5", True)


def test_each_figure_says_its_target_in_both_modes():
    assert len(FIGURES) == 10
    assert HOUNSFIELD.target("given") == "≤ 10 / 15 / 40 HU"
    assert SPECTRUM.target("blind") == "inside the real-vs-real range"
