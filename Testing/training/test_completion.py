"""The completion network's samples and its recipe, from a folder of scans to a model that fills in a body."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.cli import main
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.completion_unet import CompletionUNetConfig
from CTSynthesisLib.synthesis.completion import GUESSES, complete
from CTSynthesisLib.synthesis.condition import AIR, BODY, BONE, CLASSES, LUNG, SOFT
from CTSynthesisLib.training.completion import Completion, CompletionRecipe, HiddenTissues
from CTSynthesisLib.training.slab_data import Case
from Testing.phantom import thorax

SMALL = CompletionRecipe(network=CompletionUNetConfig(width=(8, 16, 24)), rate=5e-3, iterations=200)


@pytest.fixture(scope="module")
def a_case():
    labelmap = thorax(shape=(24, 96, 112), spacing=(1.6, 1.6, 2.5))
    values = np.array([0, 1, 4, 4, 1, 1, 3], np.uint8)[labelmap.array]  # soft tissue, lungs, bone
    return Case("phantom", values.astype(np.int16), values.astype(np.int16), values, {1: SOFT, 3: BONE, 4: LUNG}, (1.6, 1.6, 2.5))


def test_a_sample_is_a_function_of_its_number(a_case):
    samples = HiddenTissues([a_case], SMALL)
    first, again, other = samples(3), samples(3), samples(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["inputs"].shape != other["inputs"].shape or not torch.equal(first["inputs"], other["inputs"])


def test_only_hidden_voxels_are_asked_for(a_case):
    """Every cell with a question shows some unspecified body; outside the body there is none."""
    for n in range(5):
        sample = HiddenTissues([a_case], SMALL)(n)
        asked = sample["weight"] > 0.01
        assert (sample["inputs"][:, BODY][asked] > 0).all()
        assert (sample["weight"][sample["inputs"][:, AIR] == 1] == 0).all()
        assert (sample["target"].sum(1)[asked] > 0.99).all()


def test_training_learns_where_lungs_lie(a_case):
    torch.manual_seed(0)
    samples, model = HiddenTissues([a_case], SMALL), Completion(SMALL)
    figures = [model.step(samples(n)) for n in range(60)]
    early, late = (np.mean([f["cross_entropy"] for f in part]) for part in (figures[:5], figures[-10:]))
    assert late < 0.6 * early


def test_the_recipe_leaves_a_model_that_fills_a_body(a_case, a_folder_of_scans, tmp_path):
    out = tmp_path / "out"
    assert main(["train", "completion", "--data", str(a_folder_of_scans), "-o", str(out), "--iterations", "1"]) == 0
    card = load_card(str(out / "completion.safetensors"))
    labelmap = thorax(shape=(24, 96, 112), spacing=(1.6, 1.6, 2.5))
    values = (labelmap.array > 0).astype(np.uint8)
    values[labelmap.array == 2] = 2  # one lung is given
    tissue, hu = np.array([AIR, BODY, LUNG]), np.array([-1000.0, 20, -830], np.float32)
    guess, again = (complete(card, values, tissue, hu, labelmap.geometry, seed=1, contrast=False) for _ in range(2))
    np.testing.assert_array_equal(guess, again)
    assert set(np.unique(guess[values == 1])) <= set(GUESSES) and (guess[values != 1] == CLASSES).all()
