"""The re-segmenter's recipe, from a folder of scans to a model file that measures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from CTSynthesisLib.cli import main
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.distribution import slice_features
from CTSynthesisLib.evaluation.fidelity import dice, resegment
from CTSynthesisLib.files import write_volume
from CTSynthesisLib.modelstore import load_card, load_weights
from CTSynthesisLib.networks.segmenter import SegmenterConfig
from CTSynthesisLib.regions import REGIONS
from CTSynthesisLib.training import segmenter
from CTSynthesisLib.training.segmenter import Augmentation, Patches, SegmenterRecipe, changed, prepare, soft_dice, train
from CTSynthesisLib.volume import Geometry, LabelMap, Volume
from Testing.phantom import hounsfield, thorax

MILD = Augmentation(elastic=0, gain=0, offset=0, shading=0, noise=20)
SMALL = SegmenterRecipe(network=SegmenterConfig(width=(6, 8, 10)), augmentation=MILD, patch=(16, 32, 32), rate=2e-2, iterations=60)
LUNGS, SOFT = (next(s.value for s in REGIONS if s.name == name) for name in ("lungs", "soft_tissue"))


@pytest.fixture(scope="module")
def a_scan():
    phantom = thorax(shape=(14, 40, 48), spacing=(6.0, 6.0, 8.0))
    return Volume(hounsfield(phantom, noise=15), phantom.geometry)


def regions_of(volume):
    """Stands for segment_regions, which takes seconds."""
    labels = np.where(volume.array < -500, np.where(volume.array > -930, LUNGS, 0), SOFT).astype(np.uint8)
    return LabelMap(labels, volume.geometry, REGIONS)


@pytest.fixture(scope="module")
def a_training(tmp_path_factory, a_scan):
    """A folder of two scans of one phantom, and what training on it left."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out") / "run"
    for name in ("one", "two"):
        (data / name).mkdir()
        write_volume(a_scan, data / name / "ct.nrrd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "segment_regions", regions_of)
        done = train(data, out, recipe=SMALL, leave_out=("two",), device="cpu", on_log=None)
    return SimpleNamespace(data=data, out=out, done=done, model=str(out / "segmenter.safetensors"))


def test_what_was_learned_is_found_again(a_training, a_scan):
    """Sixty small steps tell the body from the air around and inside it; lungs would take more."""
    assert dice(resegment(a_scan, model=a_training.model), regions_of(a_scan))["soft_tissue"] > 0.8


def test_the_model_file_is_whole(a_training, a_scan):
    card = load_card(a_training.model)
    assert a_training.done == 60 and card.training_data == ["one"] and not card.generates
    assert {"features.mean", "features.basis"} <= set(load_weights(card))
    assert np.isfinite(slice_features(a_scan, "axial", model=a_training.model)).all()


def test_it_does_not_generate(a_training, tmp_path, a_labelmap, capsys):
    from CTSynthesisLib.synthesis.generate import generate
    from CTSynthesisLib.synthesis.request import Request

    with pytest.raises(UnusableInput, match="generates no CT.*default"):
        generate(a_labelmap, Request(model=a_training.model))
    assert main(["train", "segmenter", "--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "No case was found" in capsys.readouterr().err


def test_labels_on_the_working_grid_are_those_of_the_majority(tmp_path):
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[:, :, 4:] = 3
    labels[1, 1, 1] = 5  # one voxel of 1 mm among eight
    geometry = Geometry.from_spacing(labels.shape, (1.0, 1.0, 1.0))
    prepare(Volume(np.full(labels.shape, 40, np.int16), geometry), labels, tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz") as kept:
        assert kept["labels"].shape == kept["hu"].shape == (2, 4, 4)
        assert (kept["labels"] == np.array([0, 0, 3, 3])).all()


def test_batches_are_a_function_of_their_number(a_training):
    scans = segmenter.load_scans(a_training.data, a_training.out / "scans", leave_out=("two",))
    first, again, other = Patches(scans, SMALL)(3), Patches(scans, SMALL)(3), Patches(scans, SMALL)(4)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert first["hu"].shape == (2, 16, 32, 32) and not torch.equal(first["hu"], other["hu"])
    assert {0, LUNGS, SOFT} >= set(first["labels"].unique().tolist())


def test_labels_move_with_the_picture(a_training):
    """Without changes of contrast, HU still tells the labels after rotation, scaling and displacement."""
    still = Augmentation(gain=0, offset=0, shading=0, blur=0.3, noise=0)
    recipe = SegmenterRecipe(patch=SMALL.patch, augmentation=still)
    scans = segmenter.load_scans(a_training.data, a_training.out / "scans", leave_out=("two",))
    batch = Patches(scans, recipe)(0)
    soft = batch["hu"] > -300
    assert (soft == (batch["labels"] == SOFT)).float().mean() > 0.95


def test_intensities_change_and_places_do_not():
    hu = torch.full((12, 30, 30), -1000.0)
    hu[:, 10:20, 10:20] = 50
    found = changed(hu, Augmentation(), np.random.default_rng(0))
    assert found.shape == hu.shape and (found - hu).abs().mean() > 5
    assert found[:, 12:18, 12:18].mean() > found[:, :8].mean() + 700


def test_soft_dice_by_hand():
    labels = torch.tensor([[0] * 100 + [1] * 100])
    sure = torch.full((1, 3, 200), -50.0)
    sure[0, 0, :150] = sure[0, 1, 150:] = 50.0
    # class 0: 2·100 / (150 + 100 + 1); class 1: 2·50 / (50 + 100 + 1); class 2 is absent
    assert soft_dice(sure, labels).item() == pytest.approx((200 / 251 + 100 / 151) / 2, abs=1e-5)
