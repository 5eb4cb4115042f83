"""The nodule experiment from end to end on small made-up persons, through the command line and the library."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.nodule_experiment import NodulePlan, run_experiment
from CTSynthesisLib.evaluation.nodule_tables import measured
from CTSynthesisLib.files import write_volume
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.squeezenet3d import SqueezeNet3DConfig
from CTSynthesisLib.training.nodule_classifier import NoduleClassifierRecipe, train
from CTSynthesisLib.training.nodule_hands import Hands
from CTSynthesisLib.training.nodule_samples import WHOLE_CHEST, Sampling
from Testing.nodule_chest import BALLS, LEFT, chest, write_case

NETWORK = SqueezeNet3DConfig(stem=4, squeeze=(2, 2), expand=4, pool_before=(0,))


@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """Three real persons, one of them with a marked nodule, and one synthetic volume."""
    folder = tmp_path_factory.mktemp("persons")
    write_case(folder / "real" / "held-out", balls=[(LEFT, 24.0)], seed=1)
    write_case(folder / "real" / "one", balls=[(LEFT, 20.0)], seed=2)
    (folder / "made").mkdir()
    write_volume(chest(seed=4, level=-820.0), folder / "made" / "volume-0000.nrrd")
    return folder


@pytest.fixture(scope="module")
def a_plan(persons):
    return NodulePlan(
        data=persons / "real", out=persons / "out", synthetic=persons / "made", held_out=("held-out",), seeds=2, sizes=(12.0, 24.0),
        real_samples=24, synthetic_samples=24, test_samples=12, sampling=Sampling(voxels=16, spacing=3.0, repeats=3),
        recipe=NoduleClassifierRecipe(network=NETWORK, iterations=20, rate=5e-3, batch=8), fine_tuning=5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def a_result(a_plan):
    return run_experiment(a_plan, BALLS, report=lambda line: None)


def test_three_arms_two_sizes_and_the_marked_nodules(a_result):
    assert set(a_result["figures"]) == {"12 mm", "24 mm", "all sizes", "marked"}
    for arms in a_result["figures"].values():
        assert set(arms) == {"real", "synthetic", "fine-tuned"}
        for figures in arms.values():
            assert figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"]
            assert len(figures["accuracy_of_seeds"]) == 2
    assert a_result["test_samples"]["12 mm"] == {"kept": 0, "erased": 0, "injected": 6, "clean": 6}
    assert a_result["test_samples"]["marked"] == {"kept": 2, "erased": 1, "injected": 0, "clean": 0}


def test_persons_stay_apart_and_stand_ins_are_named(a_result, a_plan):
    assert a_result["persons"] == {"training": ["one"], "validation": [], "test": ["held-out"], "synthetic": ["volume-0000"]}
    page = (a_plan.out / "nodules.md").read_text(encoding="utf-8")
    assert "injected (stand-ins)" in page and "Nodules by size are **stand-ins**" in page and "erased by: balls of soft tissue" in page
    assert json.loads((a_plan.out / "nodules.json").read_text())["persons"]["test"] == ["held-out"]


def test_begun_again_it_trains_nothing_twice(a_result, a_plan):
    told = []
    again = run_experiment(a_plan, BALLS, report=told.append)
    assert again["figures"] == a_result["figures"] and not [line for line in told if "training on" in line or "cutting" in line]


def test_the_injector_that_is_handed_in_is_the_one_used(a_result, a_plan, tmp_path):
    """With one that injects nothing, stand-ins look like clean places."""
    nothing = Hands(lambda volume, centre, nodule: volume, lambda volume, centre, diameter: volume, "nothing")
    told = []
    plan = replace(a_plan, out=tmp_path, synthetic=None, seeds=1, sizes=(24.0,), recipe=replace(a_plan.recipe, iterations=1))
    for hands, brightest in ((nothing, -500), (BALLS, 10)):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(a_plan.out / "lungs", tmp_path / "lungs")
        result = run_experiment(plan, hands, told.append)
        middle = np.load(tmp_path / "samples" / "test 24 mm.npy")[::2, 6:10, 6:10, 6:10]  # every second one is injected
        assert result["injector"] == hands.name and (middle.max((1, 2, 3)) > -300).all() == (brightest > 0)
    assert set(result["figures"]["24 mm"]) == {"real"} and any("only the arm of real scans" in line for line in told)


def test_from_the_command_line(persons, a_result, a_plan, tmp_path, capfd):
    shutil.copytree(a_plan.out / "lungs", tmp_path / "out" / "lungs")
    argv = ["evaluate", "--nodules", "--data", persons / "real", "-o", tmp_path / "out", "--cases", "held-out", "--seeds", "1",
            "--samples", "4", "4", "2", "--iterations", "1", "1"]  # fmt: skip
    assert main([str(a) for a in argv]) == 0
    printed = capfd.readouterr()
    assert (tmp_path / "out" / "nodules.md").is_file() and "stand-in" not in printed.err and "only the arm of real" in printed.err
    for more, said in ((["--synthetic", "missing"], "does not exist"), (["--cases", "nobody"], "There is no case 'nobody'"),
                       (["--seeds", "0"], "whole numbers"), (["--halves", "people"], "cannot be halved")):  # fmt: skip
        assert main([str(a) for a in (*argv, *more)]) == 2
        assert said in capfd.readouterr().err


def test_a_classifier_is_trained_and_another_goes_on_from_it(persons, tmp_path, capfd):
    recipe = NoduleClassifierRecipe(network=NETWORK, samples=4, batch=4, sampling=Sampling(voxels=16, spacing=3.0, repeats=2))
    quiet = {"iterations": 1, "leave_out": ("held-out",), "recipe": recipe, "on_log": None, "report": lambda line: None}
    assert train(persons / "real", tmp_path / "a", **quiet) == 1
    card = load_card(str(tmp_path / "a" / "nodule-classifier.json"))
    assert card.training_data == ["one"] and "injected and erased by: " in card.description and not card.generates
    train(persons / "real", tmp_path / "b", start=str(tmp_path / "a" / "nodule-classifier.safetensors"), **quiet)
    argv = ["train", "nodule-classifier", "--data", str(persons / "real"), "-o", str(tmp_path / "c"), "--start-from"]
    assert main([*argv, "segmenter"]) == 2 and "another kind of network" in capfd.readouterr().err
    assert main([*argv, "nobody"]) == 2 and not (tmp_path / "c").exists()


def test_whole_chests_of_persons_that_are_split_by_the_experiment(a_result, a_plan, tmp_path):
    """As at full scale: persons with and without marked nodules, in the paper's shares, each wholly on one side."""
    lungs = next((a_plan.out / "lungs" / "training").glob("*.npy"))
    for n in range(8):
        write_case(tmp_path / "data" / f"lidc-{n}", balls=[(LEFT, 20.0)], seed=n)
        write_case(tmp_path / "data" / f"nlst-{n}", seed=n)
        for part in ("training", "validation", "test"):  # all phantoms have the same lungs
            (tmp_path / "out" / "lungs" / part).mkdir(parents=True, exist_ok=True)
            for sort in ("lidc", "nlst"):
                shutil.copyfile(lungs, tmp_path / "out" / "lungs" / part / f"{sort}-{n}.npy")
    whole = replace(WHOLE_CHEST, voxels=16, spacing=10.0)
    plan = replace(a_plan, data=tmp_path / "data", out=tmp_path / "out", held_out=(), synthetic=None, seeds=1, sizes=(24.0,),
                   real_samples=24, test_samples=4, sampling=whole)  # fmt: skip
    result = run_experiment(plan, BALLS, report=lambda line: None)
    persons = result["persons"]
    assert {name: len(some) for name, some in persons.items()} == {"training": 12, "validation": 2, "test": 2, "synthetic": 0}
    assert not set(persons["training"]) & {*persons["validation"], *persons["test"]}
    assert {person[:4] for person in persons["test"]} == {"lidc", "nlst"}
    made = result["training_samples"][0]["real"]  # figure 3a: three of six scans with nodules lose them
    assert (made["kept"], made["erased"]) == (3, 3) and made["injected"] == made["clean"] == 9
    assert (plan.out / "trained" / "seed-0" / "real" / "best.safetensors").exists()
    assert "whole chests of 16³ voxels" in (plan.out / "nodules.md").read_text(encoding="utf-8")


def test_figures_by_hand():
    labels = {"6 mm": np.array([0, 0, 1, 1]), "marked": np.array([1, 0])}
    found = {0: {"real": {"6 mm": np.array([0.1, 0.7, 0.8, 0.9]), "marked": np.array([0.9, 0.2])}}}
    figures = measured(found, labels)
    assert figures["6 mm"]["real"]["accuracy"]["value"] == 0.75 and figures["6 mm"]["real"]["auc"]["value"] == 1.0
    assert (figures["6 mm"]["real"]["found"], figures["6 mm"]["real"]["false_alarms"]) == (1.0, 0.5)
    assert figures["all sizes"]["real"]["samples"] == 4 and figures["marked"]["real"]["accuracy"]["value"] == 1.0


def test_nobody_left(a_plan, tmp_path):
    with pytest.raises(UnusableInput, match="left for training"):
        run_experiment(replace(a_plan, out=tmp_path, held_out=("held-out", "one")), report=lambda line: None)
