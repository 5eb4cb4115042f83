"""The preset habijan2022: its numbers, its training step, and a tiny training from files to a model that draws."""

import copy

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.training import loop, losses
from CTSynthesisLib.training.habijan2022 import Habijan2022, MaskConditionedGAN, train
from CTSynthesisLib.volume import Geometry, LabelMap, Segment

TINY = Habijan2022(image_size=128, batch_size=2, filters=4, learning_rate=2e-3)


@pytest.fixture
def a_batch():
    generator = torch.Generator().manual_seed(5)
    masks = (torch.rand(4, 3, 128, 128, generator=generator) > 0.7).float()
    return masks, torch.rand(4, 1, 128, 128, generator=generator)


@pytest.fixture
def an_mmwhs_folder(tmp_path):
    """Two scans of six slices: a bright disc (left ventricle) of a radius of its own in a dark surrounding."""
    rows, columns = np.mgrid[:64, :64]
    for number in (1001, 1002):
        radius = np.arange(6)[:, None, None] * 3 + number - 995
        disc = (rows - 32) ** 2 + (columns - 32) ** 2 < radius**2
        for kind, array in (("image", np.where(disc, 300, -700).astype(np.int16)), ("label", np.where(disc, 500, 0).astype(np.uint16))):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"ct_train_{number}_{kind}.nii.gz"))
    return tmp_path


def test_numbers_are_those_of_the_paper():
    preset = Habijan2022()
    assert (preset.learning_rate, preset.batch_size, preset.image_size) == (1.3e-4, 16, 256)
    assert (preset.adversarial_weight, preset.iterations) == (0.012, 100_000)
    model = MaskConditionedGAN(Habijan2022(filters=4), mask_channels=7)
    for optimizer in (model.optimizer_G, model.optimizer_D):
        assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["lr"] == 1.3e-4


def test_one_step_changes_d_by_its_loss_only_and_g_by_its_loss_only(a_batch):
    model = MaskConditionedGAN(TINY, 3)
    generator, critic = copy.deepcopy(model.generator), copy.deepcopy(model.critic)
    y, x = a_batch
    figures = model.step(a_batch)

    # first D, by equation 2 alone; then G, by equation 3 alone, against the D that has just learned
    fake = generator(y)
    loss_D = losses.critic_loss(critic(y, x), critic(y, fake.detach()))
    apply_adam(critic, loss_D)
    loss_G = 0.012 * (1 - critic(y, fake)).square().mean() + (fake - x).abs().mean()
    apply_adam(generator, loss_G)

    assert figures["loss_D"] == pytest.approx(loss_D.item(), rel=1e-4)
    assert figures["loss_G"] == pytest.approx(loss_G.item(), rel=1e-4)
    assert figures["loss_G"] == pytest.approx(0.012 * figures["loss_adversarial"] + figures["loss_reconstruction"], rel=1e-4)
    for expected, stepped in ((critic, model.critic), (generator, model.generator)):
        for (name, one), other in zip(expected.named_parameters(), stepped.parameters(), strict=True):
            assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6), name
            # Adam's first step has the size of the learning rate wherever the gradient is more than rounding
            clear = one.grad.abs() > 1e-5
            assert torch.allclose(one[clear], other[clear], atol=1e-2 * TINY.learning_rate), name


def apply_adam(network, loss):
    parameters = list(network.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    torch.optim.Adam(parameters, TINY.learning_rate, (0.5, 0.999)).step()


def test_is_deterministic_and_its_seed_decides_the_initial_weights(a_batch):
    first, second, other = MaskConditionedGAN(TINY, 3), MaskConditionedGAN(TINY, 3), MaskConditionedGAN(Habijan2022(filters=4, seed=1), 3)
    assert first.step(a_batch) == second.step(a_batch)
    assert not torch.equal(other.generator.end.weight, MaskConditionedGAN(TINY, 3).generator.end.weight)


def test_a_tiny_training_lowers_its_reconstruction_loss_and_draws_what_it_learned(an_mmwhs_folder, tmp_path):
    out = train(an_mmwhs_folder, tmp_path / "out", structure="LV", iterations=60, preset=TINY, device="cpu")
    figures = loop.read_log(out)
    before, after = figures["loss_reconstruction"][0], np.mean(figures["loss_reconstruction"][-5:])
    assert after < 0.5 * before
    assert set(figures) >= {"loss_D", "loss_G", "loss_adversarial", "accuracy_real", "accuracy_fake"}
    assert all(0 <= value <= 1 for name in ("accuracy_real", "accuracy_fake") for value in figures[name])
    for picture in ("losses.png", "accuracy.png", "strip.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.stem for path in (out / "samples").iterdir()) == [f"{n:07d}" for n in (0, 6, 15, 30, 45, 60)]
    card = load_card(str(out / "habijan2022.safetensors"))
    assert card.version == "60 iterations" and card.training_data == ["ct_train_1001: 6 slices", "ct_train_1002: 6 slices"]

    geometry = Geometry.from_spacing((2, 64, 64), (1.0, 1.0, 1.0))
    labels = np.zeros((2, 64, 64), np.uint16)
    labels[:, 16:48, 16:48] = 9
    labelmap = LabelMap(labels, geometry, (Segment(9, "heart_ventricle_left"),))
    drawn = generate(labelmap, Request(model=card.path, outside="air", device="cpu")).volume.array
    assert np.median(drawn[labels > 0]) - np.median(drawn[labels == 0]) > 500  # 1000 in the training images


def test_a_resumed_training_is_the_same_bit_for_bit(an_mmwhs_folder, tmp_path):
    options = dict(structure="LV", preset=TINY, device="cpu")
    train(an_mmwhs_folder, tmp_path / "whole", iterations=4, **options)
    train(an_mmwhs_folder, tmp_path / "parts", iterations=2, **options)
    train(an_mmwhs_folder, tmp_path / "parts", iterations=4, resume=True, **options)
    whole, parts = loop.load_weights(tmp_path / "whole"), loop.load_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert loop.read_log(tmp_path / "whole")["loss_G"] == loop.read_log(tmp_path / "parts")["loss_G"]
