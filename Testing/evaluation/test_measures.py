"""The record of figures: nought for equal volumes, in place where a tissue was told, missing where it was not drawn."""

from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.evaluation.conditions import contours, regions
from CTSynthesisLib.evaluation.measures import drawn_against, person_against
from CTSynthesisLib.evaluation.tissues import by_rule, told
from CTSynthesisLib.volume import Volume
from Testing.evaluation.persons import a_person


def drawn(person, hu):
    return replace(person, ct=Volume(hu.astype(np.int16), person.ct.geometry))


@pytest.mark.parametrize("condition", [regions, contours])
def test_the_scan_itself_is_without_error(condition):
    person = a_person(organs=("heart",))
    figures = drawn_against(drawn(person, person.ct.array), person, condition(person), borders={0: [8], 1: [], 2: []})
    for key in ("median_error.soft_tissue", "median_error.lungs", "median_error.bone", "wasserstein.lungs", "bone_profile", "mae"):
        assert figures[key] == 0, key
    assert figures["spectrum"] == 0
    assert [figures[f"change.{axis}"] for axis in "ijk"] == [1, 1, 1]
    assert figures["spread_ratio.bone"] == pytest.approx(1) and figures["ssim"] == pytest.approx(1)
    assert abs(figures["border_jump"]) < 3
    assert figures["structures"]["heart"]["median_error"] == 0


def test_errors_have_the_size_they_were_given():
    person = a_person()
    hu = person.ct.array.copy()
    hu[person.region("bone")] += 70
    hu[person.region("lungs")] -= 20
    figures = drawn_against(drawn(person, hu), person, regions(person))
    assert figures["median_error.bone"] == 70 and figures["wasserstein.bone"] == pytest.approx(70)
    assert figures["median_error.lungs"] == 20
    assert figures["median_error.soft_tissue"] == 0


def test_a_tissue_that_was_not_told_may_lie_elsewhere_but_not_be_missing():
    person = a_person()
    moved = np.where(np.roll(person.body, 4, axis=1) == person.body, np.roll(person.ct.array, 4, axis=1), person.ct.array)
    labelmap = contours(person)
    elsewhere = drawn_against(drawn(person, moved), person, labelmap)
    assert elsewhere["missing.bone"] == 0 and elsewhere["median_error.bone"] < 5
    assert drawn_against(drawn(person, moved), person, regions(person))["wasserstein.bone"] > 30, "told, it has to be in its place"
    boneless = drawn_against(drawn(person, np.where(person.region("bone", "blood"), 40, person.ct.array)), person, labelmap)
    assert boneless["missing.bone"] == 1 and np.isnan(boneless["median_error.bone"])


def test_told_tissues_are_grouped_and_the_body_is_none():
    person = a_person(organs=("heart", "vertebrae"))
    known = {tissue: [name for name, _ in masks] for tissue, masks in told(contours(person), person.body).items()}
    heart = "blood" if "blood" in known else "soft_tissue"  # as the anatomy table has it
    assert known == {"lungs": ["lungs"], heart: ["heart"], "bone": ["vertebrae"]}


def test_rules_find_the_tissues_of_a_scan():
    person = a_person()
    found = by_rule(person.ct.array, person.body, person.spacing)
    for tissue in ("lungs", "soft_tissue"):
        both = (found[tissue] & person.region(tissue)).sum()
        assert 2 * both / (found[tissue].sum() + person.region(tissue).sum()) > 0.9, tissue
    assert (found["bone"] & person.region("bone", "blood")).sum() > 0.9 * person.region("bone").sum()
    assert found["fat"].sum() < 0.08 * person.body.sum(), "there is none but the skin's partial volume"


def test_another_person_is_measured_in_regions_of_its_own():
    one, other = a_person(), a_person(seed=1, spacing=(3.1, 3.3, 6.5))
    figures = person_against(other, one)
    assert figures["median_error.bone"] <= 2
    assert figures["spread_ratio.lungs"] == pytest.approx(1, abs=0.05)
    assert "mae" not in figures, "the grids differ"
