"""Training of the nodule networks on a made-up chest: what they are shown, that a step teaches, and the model that comes out."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.files import write_volume
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.nodule_unet import NoduleUNetConfig
from CTSynthesisLib.synthesis.nodules import load
from CTSynthesisLib.training.nodule_data import Lung, NoduleSampler, NoduleSampling
from CTSynthesisLib.training.nodule_gan import NoduleGAN, NoduleRecipe, spread_error, train
from CTSynthesisLib.training.slab_data import Case
from Testing.nodule_chest import SPACING, chest_and_lungs

TINY = NoduleRecipe(network=NoduleUNetConfig(width=(4, 4, 8, 8)), critic=(4, 4, 8), alone=1, penalty_every=2)


@pytest.fixture(scope="module")
def lungs():
    volume, labels = chest_and_lungs()
    case = Case("chest", volume.array, volume.array, labels, {}, SPACING)
    return [Lung(case, np.argwhere(labels > 0)[::50], 20.0)]


def hu(part):
    return 500 * part - 500


def test_the_injector_does_not_see_what_a_solid_nodule_hides(lungs):
    sampler = NoduleSampler(lungs, NoduleSampling(kinds=(1, 0, 0), diameters=(12, 14), edges=(1, 0, 0)), erase=False)
    batch = sampler(3)
    x, target = batch["inputs"][0], batch["target"][0]
    core = x[2] > 0.95
    assert core.sum() > 100
    assert hu(x[0][core]).mean() < -800 and hu(x[0][core]).std() < 15  # lung filled in, without its grain
    assert hu(target[core]).mean() == pytest.approx(15, abs=15) and hu(target[core]).std() > 5
    away = x[1] == 0
    assert (x[0] - target)[away].abs().max() < 0.06  # elsewhere the scan is as it was
    assert all((a == b).all() for a, b in zip(batch.values(), sampler(3).values(), strict=True))


def test_the_eraser_sees_the_nodule_and_is_asked_for_the_lung(lungs):
    sampler = NoduleSampler(lungs, NoduleSampling(kinds=(1, 0, 0), diameters=(12, 14), edges=(1, 0, 0), spheres=0.0), erase=True)
    batch = sampler(3)
    x, target = batch["inputs"][0], batch["target"][0]
    core = x[2] > 0.95
    assert hu(x[0][core]).mean() > -60 and hu(target[core]).mean() < -800 and hu(x[3][core]).mean() < -800
    hidden = NoduleSampler(lungs, NoduleSampling(diameters=(12, 14), spheres=1.0), erase=True)(3)["inputs"][0]
    assert hu(hidden[0][hidden[2] > 0.95]).mean() < -800


def test_a_step_lowers_the_error_and_moves_both_networks(lungs):
    batch = NoduleSampler(lungs, NoduleSampling(), erase=True)(0)
    torch.manual_seed(0)
    model = NoduleGAN(TINY)
    critic = [p.detach().clone() for p in model.critic.parameters()]
    losses = [model.step(batch) for _ in range(12)]
    assert losses[-1]["error"] < losses[0]["error"] and losses[-1]["spread"] < losses[0]["spread"]
    assert any((a != b).any() for a, b in zip(critic, model.critic.parameters(), strict=True))
    again = NoduleGAN(TINY)
    again.load_state(*model.state())
    assert again.step(batch)["error"] == pytest.approx(model.step(batch)["error"], rel=1e-3)


def test_the_spread_error_is_that_of_logarithms():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 24, 24, 24, generator=generator)
    everywhere = torch.ones_like(one)
    assert float(spread_error(one, one, everywhere)) == 0
    assert float(spread_error(2 * one, one, everywhere)) == pytest.approx(2 * np.log(2) ** 2, rel=0.01)


def test_the_recipe_writes_a_model_that_the_engine_runs(lungs, tmp_path, monkeypatch):
    monkeypatch.setattr("CTSynthesisLib.training.nodule_gan.load_lungs", lambda *_, **__: lungs)
    done = train(tmp_path, tmp_path / "out", erase=True, recipe=TINY, iterations=2, device="cpu", on_log=lambda *_: None)
    card = load_card(str(tmp_path / "out" / "nodule_eraser.json"))
    assert done == 2 and card.kind == "nodule_eraser" and card.training_data == ["chest"] and not card.generates
    answer = load(card.path)(torch.zeros(5, 16, 16, 16))
    assert [one.shape for one in answer] == 3 * [(16, 16, 16)] and 0 < answer[2].mean() < 0.2  # little is kept at first


def test_the_command_finds_the_lungs_of_a_folder(tmp_path, capfd):
    from CTSynthesisLib.cli import main

    (tmp_path / "data" / "one").mkdir(parents=True)
    write_volume(chest_and_lungs()[0], tmp_path / "data" / "one" / "ct.nrrd")
    code = main(["train", "nodule-injector", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--iterations", "1", "--device",
                 "cpu"])  # fmt: skip
    assert code == 0, capfd.readouterr().err
    assert (tmp_path / "out" / "nodule_injector.safetensors").exists()
