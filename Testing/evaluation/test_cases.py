"""Cases as they are read: grids in axial order, organs that the table knows, and where a case is looked for."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.cases import Case, Structures, find_cases, load_case
from CTSynthesisLib.volume import Volume
from Testing.evaluation.persons import a_person, regions_by_threshold, write_person


@pytest.fixture(autouse=True)
def quick_regions(monkeypatch):
    monkeypatch.setattr("CTSynthesisLib.evaluation.cases.segment_regions", regions_by_threshold)


def test_a_case_is_read_in_axial_order_whichever_way_its_file_lies(tmp_path):
    person = a_person(organs=("heart",))
    axes, flips = (2, 0, 1), (True, False, True)
    geometry = person.ct.geometry.reordered(axes, flips)
    turned = Case(person.name, Volume(np.ascontiguousarray(np.flip(person.ct.array.transpose(axes), (0, 2))), geometry), person.regions)
    write_person(turned, tmp_path)
    case = load_case(tmp_path / person.name)
    assert case.ct.geometry.agrees_with(person.ct.geometry)
    assert np.array_equal(case.ct.array, person.ct.array)
    assert case.body.shape == case.ct.array.shape and 0.2 < case.body.mean() < 0.8


def test_structures_that_are_none_of_the_anatomy_are_left_out(tmp_path):
    write_person(a_person("with targets", {"PTV-1": "aorta", "heart": "heart"}), tmp_path)
    case = load_case(tmp_path / "with targets")
    assert [u.segment.name for u in case.understood] == ["heart"]


def test_a_region_and_an_organ_of_one_name_are_both_measured():
    structures = Structures(a_person(organs={"lungs": "lung_left", "heart": "heart"}))
    assert {"lungs", "lungs (outlined)", "heart", "bone"} <= set(structures)
    assert structures["lungs (outlined)"].sum() < structures["lungs"].sum()
    assert len(structures) == len(list(structures))


@pytest.mark.parametrize(("level", "phase"), [(45, "plain"), (150, "portal"), (280, "arterial")])
def test_the_contrast_phase_is_read_from_the_blood(level, phase):
    person = a_person()
    person.ct.array[person.region("blood")] = level
    assert person.phase == phase


def test_regions_are_computed_once(tmp_path, monkeypatch):
    write_person(a_person("one"), tmp_path)
    first = load_case(tmp_path / "one", tmp_path / "kept")
    monkeypatch.setattr("CTSynthesisLib.evaluation.cases.segment_regions", None)
    again = load_case(tmp_path / "one", tmp_path / "kept")
    assert np.array_equal(again.regions.array, first.regions.array)
    assert again.region("lungs").any()


def test_cases_are_found_by_name_and_by_path(tmp_path):
    write_person(a_person("a"), tmp_path / "data")
    write_person(a_person("b"), tmp_path / "elsewhere")
    assert [f.name for f in find_cases(tmp_path / "data")] == ["a"]
    assert [f.name for f in find_cases(tmp_path / "data", ["a", str(tmp_path / "elsewhere" / "b")])] == ["a", "b"]
    with pytest.raises(UnusableInput, match="no case 'c'.*: a"):
        find_cases(tmp_path / "data", ["c"])
    with pytest.raises(UnusableInput, match="No case was found"):
        find_cases(tmp_path)
