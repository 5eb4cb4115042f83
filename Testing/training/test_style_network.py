"""The recipe of the style network: pairs are prepared once, training lowers the distance it is after, resumes, and leaves a model file."""

import json

import pytest
import torch

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.style_unet import StyleUNetConfig
from CTSynthesisLib.synthesis.style_network import load
from CTSynthesisLib.training import style_pairs
from CTSynthesisLib.training.style_network import StyleNetworkModel, StyleNetworkRecipe, Windows, train
from CTSynthesisLib.training.style_pairs import Plan

TINY = StyleNetworkRecipe(network=StyleUNetConfig(width=(8, 8, 8, 8), code=8), plan=Plan(looks=1, contents=1), size=64)


@pytest.fixture(scope="module")
def run(a_folder_of_scans, tmp_path_factory):
    """A tiny training, stopped after two steps and resumed for one more."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style_pairs, "SPACING", 3.4)
        patch.setattr(style_pairs, "FEWEST", 300)
        assert train(a_folder_of_scans, out, recipe=TINY, iterations=2, on_log=None) == 2
        times = {path: path.stat().st_mtime_ns for path in (out / "pairs").iterdir()}
        assert train(a_folder_of_scans, out, recipe=TINY, iterations=3, resume=True, on_log=None) == 3
        assert {path: path.stat().st_mtime_ns for path in (out / "pairs").iterdir()} == times and len(times) == 2
    return out


def test_a_tiny_training_resumes_and_gives_a_model_that_loads(run):
    card = load_card(str(run / "style_network.safetensors"))
    assert card.kind == "style_network" and not card.generates and card.training_data == ["one", "two"]
    assert load(card.path).config.width == (8, 8, 8, 8)
    assert json.loads((run / "checkpoint-0000003" / "progress.json").read_text())["iteration"] == 3


def test_its_steps_bring_the_windows_of_a_pair_nearer(run):
    windows = Windows(sorted((run / "pairs").iterdir()), TINY)
    model, batch = StyleNetworkModel(TINY, 100), windows(1)
    losses = [model.step(batch)["loss"] for _ in range(25)]
    assert losses[-1] < losses[0] - 0.02


def test_a_pair_is_one_persons_anatomy_and_anothers_style(run):
    pair = torch.load(run / "pairs" / "one-0-0.pt", weights_only=True)
    assert pair["fast"].shape == pair["guide"].shape == pair["labels"].shape
    for structure in pair["structures"]:
        assert (pair["labels"] == structure["value"]).any() and structure["step"] > 0 and structure["before"] > 0


def test_one_scan_makes_no_pairs(a_folder_of_scans, tmp_path):
    with pytest.raises(UnusableInput, match="at least two"):
        train(a_folder_of_scans, tmp_path, recipe=TINY, iterations=1, leave_out=("one",))
