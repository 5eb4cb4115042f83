"""The injector as published: it sees nothing of the nodule, its losses are those that are stated, and the command uses what comes out."""

import json

import numpy as np
import pytest
import torch

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import read_volume, write_volume
from CTSynthesisLib.networks.jin_generator import JinConfig
from CTSynthesisLib.synthesis.nodule_masked import SIDE, hounsfield, masked, sphere, unit
from CTSynthesisLib.training.jin2018 import Jin2018, Jin2018Training, Nodules, reconstruction_error, train
from CTSynthesisLib.training.nodule_data import Lung, NoduleSampling
from CTSynthesisLib.training.slab_data import Case
from Testing.nodule_chest import SPACING, chest_and_lungs, in_the_lung

SOLID = NoduleSampling(side=SIDE, diameters=(12.0, 14.0), kinds=(1, 0, 0))
TINY = Jin2018(network=JinConfig(width=(2, 4, 4)), sampling=SOLID, iterations=2)


@pytest.fixture(scope="module")
def lungs():
    volume, labels = chest_and_lungs()
    return [Lung(Case("chest", volume.array, volume.array, labels, {}, SPACING), np.argwhere(labels > 0)[::50], 20.0)]


def test_the_generator_sees_nothing_of_the_nodule(lungs):
    batch = Nodules(lungs, TINY)(0)
    target, near = batch["target"], batch["near"]
    assert target.shape == (1, 1, SIDE, SIDE, SIDE) and hounsfield(target)[0, 0, 28:36, 28:36, 28:36].mean() > -750  # there is one
    assert near[0, 0, 32, 32, 32] and not (near & ~sphere()).any()  # and it lies in what is erased, with its surroundings
    other = torch.where(near, torch.rand(target.shape), target)
    assert not torch.equal(target, other) and torch.equal(masked(target), masked(other))
    model = Jin2018Training(TINY)
    assert torch.equal(model.drawn(target), model.drawn(other))
    assert not torch.equal(model.drawn(target), model.drawn(target.flip(-1)))  # what is around it, it sees


def test_losses_by_hand():
    near = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    near[0, 0, 0, 0, 0] = True
    zeros = torch.zeros(1, 1, 2, 2, 2)
    assert reconstruction_error(zeros + 0.5, zeros, near, 5.0).item() == pytest.approx((7 * 0.5 + 5 * 0.5) / 8)
    model = Jin2018Training(TINY)
    torch.nn.init.zeros_(model.discriminator.layers[-1].weight)
    torch.nn.init.zeros_(model.discriminator.layers[-1].bias)
    target = torch.rand(1, 1, SIDE, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        fake = model.generator(masked(target))
    found = model.step({"target": target, "near": sphere()[None, None]})
    assert found["loss_D"] == pytest.approx(2 * np.log(2), rel=1e-5)  # a discriminator that knows nothing
    weight = torch.where(sphere(), 5.0, 1.0)
    assert found["reconstruction"] == pytest.approx((weight * (fake - target).abs()).mean().item(), rel=1e-4)
    assert (TINY.reconstruction, TINY.weight, TINY.rate, TINY.betas) == (100, 5, 2e-4, (0.5, 0.999))
    assert unit(np.array([-1000, -200, 600])).tolist() == [-1, 0, 1]


def test_what_comes_out_is_used_by_the_command(lungs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("CTSynthesisLib.training.jin2018.load_lungs", lambda *_, **__: lungs)
    assert train(tmp_path, tmp_path / "out", preset=TINY, device="cpu") == 2
    assert train(tmp_path, tmp_path / "out", preset=TINY, device="cpu", iterations=3, resume=True) == 3
    assert (tmp_path / "out" / "strip.png").exists()
    volume, labels = chest_and_lungs()
    write_volume(volume, tmp_path / "ct.nrrd")
    at = ",".join(f"{a:g}" for a in in_the_lung(labels)[::-1])
    command = ["nodule", "inject", str(tmp_path / "ct.nrrd"), "-o", str(tmp_path / "with.nrrd"), "--at", at, "--model"]
    assert main([*command, str(tmp_path / "out" / "jin2018_injector.json")]) == 0, capfd.readouterr().err
    made, told = read_volume(tmp_path / "with.nrrd"), capfd.readouterr()
    assert "was not heeded" in told.err and json.loads(made.metadata["CTSynthesis.Nodules"])[0]["model"] == "jin2018_injector"
    assert json.loads(made.metadata["CTSynthesis.Nodules"])[0]["injected"][0]["kind"] == "as drawn"  # what was asked for is not claimed
    where = np.argwhere(made.array != volume.array)
    away = np.linalg.norm((where - in_the_lung(labels)) * np.array(SPACING)[::-1], axis=1)
    assert len(where) > 100 and away.max() < 16.5
    assert main([*command, "segmenter"]) == 2 and "is a model for something else" in capfd.readouterr().err
