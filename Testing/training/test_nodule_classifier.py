"""The recipe of the nodule classifier: its optimizer, its batches, and that it learns, resumes and goes on from another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.networks.squeezenet3d import SqueezeNet3DConfig
from CTSynthesisLib.training.nodule_classifier import Classifier, NoduleClassifierRecipe, Samples, fit, probabilities, to_unit

TINY = NoduleClassifierRecipe(network=SqueezeNet3DConfig(stem=4, squeeze=(2, 2), expand=4, pool_before=(0,)), batch=8)


@pytest.fixture(scope="module")
def bright_and_dark():
    """64 volumes of lung, half of them with a bright cube."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(-850, 30, (64, 16, 16, 16)).astype(np.int16)
    labels = np.arange(64) % 2
    voxels[labels == 1, 6:10, 6:10, 6:10] = 50
    return voxels, labels


def test_as_published():
    model = Classifier(NoduleClassifierRecipe())
    assert isinstance(model.optimizer, torch.optim.Adam)
    assert (model.optimizer.defaults["lr"], model.optimizer.defaults["betas"]) == (1e-4, (0.9, 0.999))
    assert to_unit(np.array([[[[-3000, -1000, -300, 400, 3000]]]], np.int16)).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_batches_are_balanced_and_a_function_of_their_number(bright_and_dark):
    batches = Samples(*bright_and_dark, replace(TINY, seed=1))
    volumes, labels = batches(5)
    assert volumes.shape == (8, 1, 16, 16, 16) and labels.sum() == 4
    assert torch.equal(volumes.amax((1, 2, 3, 4)) > 0.5, labels > 0)
    assert torch.equal(batches(5)[0], volumes) and not torch.equal(batches(6)[0], volumes)
    with pytest.raises(UnusableInput, match="with and without"):
        Samples(bright_and_dark[0], np.ones(64), TINY)


def test_it_learns_what_a_nodule_is_and_goes_on_from_there(bright_and_dark, tmp_path):
    voxels, labels = bright_and_dark
    recipe = NoduleClassifierRecipe(network=TINY.network, batch=8, rate=5e-3)
    network, done = fit(voxels[:48], labels[:48], tmp_path / "a", recipe, iterations=60)
    found = probabilities(network, voxels[48:])
    assert done == 60 and ((found > 0.5) == labels[48:]).mean() > 0.9
    tuned, _ = fit(voxels[:48], labels[:48], tmp_path / "b", recipe, iterations=1, start=network.state_dict())
    assert np.abs(probabilities(tuned, voxels[48:]) - found).mean() < 0.25


def test_the_best_weights_on_other_persons_are_kept(bright_and_dark, tmp_path):
    """Validation labels that contradict the training make every later iteration worse."""
    voxels, labels = bright_and_dark
    recipe = NoduleClassifierRecipe(network=TINY.network, batch=8, rate=5e-3)
    last, _ = fit(voxels, labels, tmp_path / "a", recipe, iterations=60)
    best, _ = fit(voxels, labels, tmp_path / "b", recipe, iterations=60, validation=(voxels[:16], 1 - labels[:16]))
    right = [((probabilities(network, voxels) > 0.5) == labels).mean() for network in (last, best)]
    assert right[1] < right[0]
