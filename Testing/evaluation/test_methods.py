"""The rows of the evaluation: what each one keeps of a scan, and what it cannot know."""

from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.evaluation.conditions import contours, lone, regions
from CTSynthesisLib.evaluation.methods import METHODS, Task, borders_of, mean, per_slice, spectrum, white
from CTSynthesisLib.evaluation.texture import noise_spectrum, spectrum_difference
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap
from Testing.evaluation.persons import a_person
from Testing.synthesis.models import save_random_model


def a_task(mode="given", condition=regions, person=None, **request):
    person = person or a_person()
    labelmap = condition(person, 0)
    return Task(person, condition.__name__, mode, labelmap, Request(device="cpu", inside="plain", phase=person.phase, **request))


@pytest.fixture
def a_model(tmp_path):
    return str(tmp_path / f"{save_random_model(tmp_path).name}.safetensors")


@pytest.mark.parametrize("region", ["soft_tissue", "lungs", "bone", "blood"])
def test_means_are_the_scans_own_when_given(region):
    task = a_task()
    inside = task.case.region(region)
    hu = mean(task).hu
    assert len(np.unique(hu[inside])) == 1
    assert hu[inside][0] == pytest.approx(task.case.ct.array[inside].mean(), abs=0.5)
    assert (hu[~task.case.body] == -1000).all()


@pytest.mark.parametrize("method", ["mean", "white", "spectrum"])
def test_a_blind_method_does_not_look_at_the_scan(method):
    task = a_task("blind")
    drawn = METHODS[method](task).hu
    task.case.ct.array[:] = 7
    assert np.array_equal(METHODS[method](replace(task)).hu, drawn)


@pytest.mark.parametrize("method", [white, spectrum])
def test_noise_has_the_spread_of_each_structure(method):
    task = a_task()
    task.case.ct.array[task.case.region("bone")] += np.resize([-60, 60], task.case.region("bone").sum()).astype(np.int16)
    hu = method(task).hu
    for region in ("soft_tissue", "lungs", "bone"):
        inside = task.case.region(region)
        assert hu[inside].std() == pytest.approx(task.case.ct.array[inside].std(), rel=0.08), region


def test_the_unspecified_body_has_the_grain_of_soft_tissue():
    task = a_task(condition=contours)
    body = (task.labelmap.array == 1) & task.case.body
    hu, real = white(task).hu, task.case.ct.array
    assert hu[body].mean() == pytest.approx(real[body].mean(), abs=1)
    assert hu[body].std() == pytest.approx(real[task.case.region("soft_tissue")].std(), rel=0.05)
    assert hu[body].std() < 0.5 * real[body].std(), "bone and blood lie in this body too"


def test_white_noise_is_white_and_the_spectrum_row_has_the_scans_spectrum():
    task = a_task()
    real = noise_spectrum(task.case.ct.array, task.case.even, task.case.spacing)
    off = {m.__name__: spectrum_difference(noise_spectrum(m(task).hu, task.case.even, task.case.spacing), real) for m in (white, spectrum)}
    assert off["spectrum"] < 0.25
    assert off["white"] > 2 * off["spectrum"]
    grain = white(task).hu - mean(task).hu
    beside = np.corrcoef(grain[:, :, 1:][task.case.even[:, :, 1:]], grain[:, :, :-1][task.case.even[:, :, 1:]])[0, 1]
    assert abs(beside) < 0.05


def test_seeds_choose_the_noise():
    assert np.array_equal(white(a_task(seed=4)).hu, white(a_task(seed=4)).hu)
    assert not np.array_equal(white(a_task(seed=4)).hu, white(a_task(seed=5)).hu)


def test_where_there_is_no_outline_every_method_gets_the_derived_one():
    task = a_task(condition=lone)
    assert task.told == {"lungs"}
    surroundings = (task.outlined.array > 0) & (task.labelmap.array == 0)
    assert surroundings.any()
    assert (mean(task).hu[surroundings] > -300).all()
    with_body = a_task(condition=contours)
    assert with_body.outlined is with_body.labelmap


def test_slice_by_slice_no_slice_knows_its_neighbours_or_shares_their_grain(a_model):
    task = a_task(model=a_model)
    array = task.labelmap.array.copy()
    array[9] = np.where(array[9] > 0, 3, 0)  # all bone
    changed = replace(task, labelmap=LabelMap(array, task.labelmap.geometry, task.labelmap.segments))
    before, after = per_slice(task).hu, per_slice(changed).hu
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [k != 9 for k in range(len(before))]
    model = METHODS["model"](task)
    assert not np.array_equal(model.hu, METHODS["model"](changed).hu)
    assert not np.array_equal(model.hu[8], before[8])
    assert model.seconds > 0 and before[4][task.case.body[4]].std() > 0


def test_borders_are_where_the_engines_blocks_meet(tmp_path):
    card = save_random_model(tmp_path)
    geometry = a_person().ct.geometry
    assert borders_of(card, geometry) == {0: [], 1: [], 2: []}, "a small volume is one block"
    large = replace(geometry, shape=(400, 200, 200))
    found = borders_of(card, large)
    assert found[0] and found[1] == found[2] == [] and all(0 < p < 400 for p in found[0])
