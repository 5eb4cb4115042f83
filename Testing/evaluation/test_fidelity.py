"""Fidelity: Dice by hand, and the network's map on the volume's own geometry."""

import math

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.fidelity import dice, fidelity, resegment
from CTSynthesisLib.regions import REGIONS
from CTSynthesisLib.volume import Geometry, LabelMap, Volume, reorder
from Testing.evaluation.segmenters import a_person, save_random_segmenter
from Testing.synthesis.models import save_random_model

FAT, BONE = (next(s.value for s in REGIONS if s.name == name) for name in ("fat", "bone"))


def a_map(values):
    array = np.array(values, np.uint8).reshape(1, 1, -1)
    return LabelMap(array, Geometry.from_spacing(array.shape, (1, 1, 1)), REGIONS)


@pytest.fixture(scope="module")
def a_segmenter(tmp_path_factory):
    return save_random_segmenter(tmp_path_factory.mktemp("models"))


def test_dice_by_hand():
    found = dice(a_map([FAT, FAT, FAT, BONE, 0]), a_map([FAT, FAT, 0, 0, FAT]), ["fat", "bone", "blood"])
    assert found["fat"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["bone"] == 0
    assert math.isnan(found["blood"])


def test_classes_meet_by_name_not_by_value():
    renumbered = tuple(type(s)(s.value + 10, s.name) for s in REGIONS)
    one = a_map([FAT, 0])
    other = LabelMap(np.array([[[FAT + 10, 0]]], np.uint8), one.geometry, renumbered)
    assert dice(one, other, ["fat"]) == {"fat": 1.0}


def test_a_scan_is_as_faithful_as_itself(a_segmenter):
    person = a_person(0)
    asked = resegment(person, model=a_segmenter)
    found = fidelity(person, person, asked, model=a_segmenter)
    assert found["ratio"] == 1.0
    assert found["counted"] == [name for name, value in found["real"].items() if value >= 0.8] != []
    changed = Volume(np.roll(person.array, 12, axis=2), person.geometry)
    assert fidelity(changed, person, asked, model=a_segmenter)["ratio"] < 0.98


def test_the_map_does_not_depend_on_how_the_volume_is_stored(a_segmenter):
    person = a_person(1)
    axes, flips = (1, 2, 0), (True, False, True)
    turned = Volume(np.ascontiguousarray(reorder(person.array, axes, flips)), person.geometry.reordered(axes, flips))
    expected = resegment(person, model=a_segmenter)
    found = resegment(turned, model=a_segmenter)
    assert found.geometry is turned.geometry
    assert len(np.unique(expected.array)) > 1
    np.testing.assert_array_equal(found.array, reorder(expected.array, axes, flips))


def test_slabs_join_without_a_trace(a_segmenter, monkeypatch):
    person = a_person(2)
    whole = resegment(person, model=a_segmenter).array
    monkeypatch.setattr("CTSynthesisLib.evaluation.fidelity.SLAB", 16)
    assert (resegment(person, model=a_segmenter).array == whole).mean() > 0.995  # rounding at the slabs' seams


def test_a_generator_is_no_segmenter(tmp_path):
    with pytest.raises(UnusableInput, match="no re-segmenter"):
        resegment(a_person(0), model=save_random_model(tmp_path).path)
