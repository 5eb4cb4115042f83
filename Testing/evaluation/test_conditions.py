"""What a method is told: each condition on a person whose every voxel is known."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation.conditions import CONDITIONS, body, contours, half, lone, regions
from CTSynthesisLib.regions import REGIONS
from Testing.evaluation.persons import a_person


def named(labelmap, name):
    value = next(s.value for s in labelmap.segments if s.name == name)
    return labelmap.array == value


def names(labelmap):
    present = set(np.unique(labelmap.array).tolist())
    return {s.name for s in labelmap.segments if s.value in present}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_says_nothing_outside_the_body_and_lies_on_the_scans_grid(condition):
    person = a_person(organs=("heart",))
    labelmap = CONDITIONS[condition](person, 0)
    assert labelmap.geometry is person.ct.geometry
    assert not labelmap.array[~person.body].any()


def test_contours_without_organs_are_body_and_whole_lungs():
    person = a_person()
    vessel = person.region("lungs") & (np.indices(person.body.shape)[0] == 8)
    person.regions.array[vessel] = next(r.value for r in REGIONS if r.name == "lung_vessels")
    labelmap = contours(person)
    assert names(labelmap) == {"body", "lungs"}
    assert np.array_equal(named(labelmap, "lungs"), person.region("lungs", "lung_vessels"))
    assert np.array_equal(labelmap.array > 0, person.body)


def test_contours_take_the_persons_own_organs_and_add_no_second_lungs():
    assert names(contours(a_person(organs=("heart", "aorta")))) == {"body", "lungs", "heart", "aorta"}
    assert names(contours(a_person(organs=("lung_left", "heart")))) == {"body", "lung_left", "heart"}


def test_regions_are_the_coarse_map():
    person = a_person(organs=("heart",))
    assert np.array_equal(regions(person).array, person.regions.array)


def test_half_of_the_structures_is_dropped_at_random_but_the_outline_stays():
    person = a_person(organs=("heart", "aorta"))
    full = {"soft_tissue", "lungs", "bone", "heart", "aorta"}  # the blood lies wholly under the aorta
    seen = set()
    for seed in range(6):
        labelmap = half(person, seed)
        kept = names(labelmap) - {"body"}
        assert kept < full and len(kept) == len(full) // 2
        assert np.array_equal(labelmap.array > 0, person.body)
        seen.add(frozenset(kept))
    assert len(seen) > 1
    assert np.array_equal(half(person, 3).array, half(person, 3).array)


def test_a_lone_heart_is_put_together_from_its_chambers():
    labelmap = lone(a_person(organs={"heart_ventricle_left": "heart", "heart_atrium_left": "aorta", "vertebrae": "vertebrae"}))
    assert names(labelmap) == {"heart"}
    person = a_person(organs=("heart", "aorta"))
    assert labelmap.array.astype(bool).sum() == (person.organs.array > 0).sum()


def test_without_a_heart_the_lungs_are_alone_and_without_lungs_nothing_is():
    person = a_person()
    assert names(lone(person)) == {"lungs"}
    person.regions.array[person.region("lungs")] = 1
    assert lone(person) is None


def test_body_is_the_outline_only():
    person = a_person(organs=("heart",))
    assert names(body(person)) == {"body"}
    assert np.array_equal(body(person).array > 0, person.body)
