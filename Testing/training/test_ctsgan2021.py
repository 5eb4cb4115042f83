"""CT-SGAN's losses and its training, as published but for the networks' widths."""

from math import log

import numpy as np
import pytest
import torch
from PIL import Image

from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.ct_sgan import CTSGANConfig, GAN3DConfig, pile
from CTSynthesisLib.networks.recurrent_latent import RecurrentLatentConfig
from CTSynthesisLib.synthesis.voxel_gan import draw_voxels
from CTSynthesisLib.training import ct_sgan_losses, ctsgan2021, gan3d
from CTSynthesisLib.training.chest_volumes import Augmentation, Cube, Slabs, Volumes, augmented, to_hounsfield, to_network
from CTSynthesisLib.training.loop import read_log
from CTSynthesisLib.training.pictures import draw_loss_curves

TINY = CTSGANConfig(latent=RecurrentLatentConfig(patient=3, slices=2, hidden=4), image_size=28, base=7, filters=2, most_filters=4)


@pytest.fixture
def some_cubes():
    """Two volumes whose slice k is k · 10 HU, plus the number of the cube."""
    stairs = (torch.arange(28) * 10)[:, None, None].expand(-1, 28, 28)
    return [Cube(name, (stairs + n).short().contiguous(), (2.0, 2.0, 1.5)) for n, name in enumerate(("one", "two"))]


def test_the_jensen_shannon_loss_is_equation_2():
    slices, slab = torch.tensor([[0.0, log(3)]]), torch.tensor([[log(4)]])  # logits: D = 1/2, 3/4; 4/5
    by_hand = -log(1 / 2) - log(3 / 4) - log(4 / 5) - log(1 - 1 / 2) - log(1 - 3 / 4) - log(1 - 4 / 5)
    assert ct_sgan_losses.critic_loss("jensen-shannon", [slices, slab], [slices, slab]).item() == pytest.approx(by_hand)
    assert ct_sgan_losses.generator_loss("jensen-shannon", [slices, slab]).item() == pytest.approx(-log(1 / 2) - log(3 / 4) - log(4 / 5))


def test_the_wasserstein_loss_by_hand():
    """Sums over a region's slices, means over the batch."""
    real, fake = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0], [6.0]])], [torch.zeros(2, 2), torch.tensor([[1.0], [2.0]])]
    assert ct_sgan_losses.critic_loss("wasserstein", real, fake).item() == pytest.approx(-(3 + 7) / 2 + (1 - 5 + 2 - 6) / 2)
    assert ct_sgan_losses.generator_loss("wasserstein", fake).item() == pytest.approx(-1.5)


def test_the_gradient_penalty_of_a_known_critic():
    """D(x) = 3 x₀² + x₁ has the gradient (6 x₀, 1)."""
    x = torch.tensor([[1.0, 5.0], [2.0, 7.0]], requires_grad=True)
    penalty = ct_sgan_losses.gradient_penalty(3 * x[:, 0] ** 2 + x[:, 1], x)
    assert penalty.item() == pytest.approx(((36 + 1) + (144 + 1)) / 2 / 2)
    penalty.backward()
    assert x.grad is not None  # a gradient of the gradient, for the critic to learn from


def test_a_slab_holds_neighbours_of_one_person(some_cubes):
    still = Augmentation(0, 0, 0, 0, 0)
    batch = Slabs(some_cubes, still, slab=4, batch=3, seed=1)(7)
    hu = to_hounsfield(batch["real"])[..., 14, 14]  # (B, N, 3)
    expected = (batch["first"] + torch.arange(4)[:, None] + torch.arange(3)) * 10
    assert (hu - expected - hu[:, :1, :1] + expected[0, 0]).abs().max() < 0.1
    assert torch.equal(batch["real"], Slabs(some_cubes, still, slab=4, batch=3, seed=1)(7)["real"])
    assert to_network(torch.tensor([-1000, 0, 1000, 3000])).tolist() == [-1, 0, 1, 1]


def test_augmentation_moves_all_slices_alike_and_brings_in_air():
    square = -torch.ones(2, 32, 32)
    square[:, 8:24, 4:24] = 0.5
    moved = augmented(square, Augmentation(zoom=0.2, shift=0.1), np.random.default_rng(0))
    assert torch.equal(moved[0], moved[1]) and not torch.equal(moved, square)
    assert moved.min() == -1 and moved.max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("loss", ct_sgan_losses.KINDS)
def test_each_update_moves_its_own_networks_and_the_slab_critic_teaches_the_recurrence(loss, some_cubes):
    model = ctsgan2021.CTSGANTraining(ctsgan2021.CTSGAN2021(network=TINY, slab=4, loss=loss))
    batch = Slabs(some_cubes, Augmentation(), slab=4, batch=2)(0)
    before = {name: value.clone() for name, value in model.state()[0].items()}
    figures = model.step(batch)
    moved = {name.split(".")[1] for name, value in model.state()[0].items() if not torch.equal(value, before[name])}
    assert moved == {"latent", "slices", "slice", "slab"} and figures["gradient_R_v"] > 0

    model.critics.requires_grad_(True)
    model.optimizer_G.zero_grad()
    model.backward_D()
    assert all(p.grad is None for p in model.generator.parameters())
    fake = model.generator(model.generator.latent.noise(1, 26), 3, 4)
    model.critics["slab"](fake[:, None, :, 1]).sum().backward()  # through D_slab alone
    assert all(p.grad is not None and p.grad.any() for p in model.generator.latent.parameters())


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(some_cubes):
    batches = Slabs(some_cubes, Augmentation(), slab=4, batch=2)
    preset = ctsgan2021.CTSGAN2021(network=TINY, slab=4)
    whole, other = ctsgan2021.CTSGANTraining(preset), ctsgan2021.CTSGANTraining(preset)
    for n in range(2):
        figures = whole.step(batches(n))
    other.step(batches(0))
    again = ctsgan2021.CTSGANTraining(preset)
    again.load_state(*other.state())
    assert again.step(batches(1)) == pytest.approx(figures)


def test_the_baseline_learns_from_volumes_of_its_own_size(some_cubes):
    preset = gan3d.GAN3D(network=GAN3DConfig(noise=5, size=16, filters=1, most_filters=2), cube=20)
    batch = Volumes(some_cubes, Augmentation(), size=16, batch=2)(0)
    assert batch["real"].shape == (2, 1, 16, 16, 16)
    model = gan3d.GAN3DTraining(preset)
    before = model.generator.state_dict()["layers.0.weight"].clone()
    figures = model.step(batch)
    assert not torch.equal(before, model.generator.state_dict()["layers.0.weight"]) and {"loss_D", "loss_G", "accuracy"} == set(figures)
    assert model.volumes(0).shape == (1, 20, 20, 20)


@pytest.mark.parametrize("module, network", ((ctsgan2021, TINY), (gan3d, GAN3DConfig(noise=5, size=16, filters=1, most_filters=2))))
def test_a_training_leaves_a_log_a_strip_and_a_model_that_draws(module, network, some_cubes, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "load_cubes", lambda *args, **more: some_cubes)
    numbers = {"network": network, **({"slab": 4} if module is ctsgan2021 else {"cube": 28})}
    preset = (ctsgan2021.CTSGAN2021 if module is ctsgan2021 else gan3d.GAN3D)(**numbers)
    module.train("unused", tmp_path / "out", iterations=3, preset=preset)
    assert read_log(tmp_path / "out")["iteration"] == [1, 2, 3] and (tmp_path / "out" / "strip.png").stat().st_size > 100
    name = module.__name__.rpartition(".")[2]
    card = load_card(str(tmp_path / "out" / f"{name}.json"))
    hu, spacing = draw_voxels(card, seed=4)
    again, _ = draw_voxels(card, seed=4)
    assert hu.shape[0] == hu.shape[1] == hu.shape[2] and spacing == (2.0, 2.0, 1.5) and hu.min() >= -1000 and hu.max() <= 1000
    assert np.array_equal(hu, again) and not np.array_equal(hu, draw_voxels(card, seed=5)[0])
    assert "one: the whole chest" in card.training_data


@pytest.mark.parametrize("loss", (-3.0, -0.001, 0.0))
def test_losses_that_are_never_positive_are_drawn_and_the_training_goes_on(loss, some_cubes, monkeypatch, tmp_path):
    """As Wasserstein's, which have no zero; the curves come before the strip, and on resuming they come again."""
    step = ctsgan2021.CTSGANTraining.step
    monkeypatch.setattr(ctsgan2021, "load_cubes", lambda *args, **more: some_cubes)
    monkeypatch.setattr(ctsgan2021.CTSGANTraining, "step", lambda self, batch: step(self, batch) | {"loss_D": loss, "loss_G": 2 * loss})
    preset = ctsgan2021.CTSGAN2021(network=TINY, slab=4)
    for iterations, resume in ((2, False), (3, True)):
        ctsgan2021.train("unused", tmp_path / "out", iterations=iterations, preset=preset, resume=resume)
        assert (tmp_path / "out" / "strip.png").stat().st_size > 100
        (tmp_path / "out" / "strip.png").unlink()
    assert read_log(tmp_path / "out")["loss_D"] == [loss] * 3


def test_a_curve_of_negative_losses_rises_and_falls(tmp_path):
    columns = {"iteration": list(range(100)), "loss_G": [-100.0 - n for n in range(100)], "loss_D": [n - 50.0 for n in range(100)]}
    draw_loss_curves(columns, tmp_path / "losses.png")
    picture = np.asarray(Image.open(tmp_path / "losses.png").convert("RGB")).astype(int)
    blue = (picture[..., 2] - picture[..., 0] > 60) & (picture[..., 0] < 100)
    heights = [np.flatnonzero(blue[:, left : left + 720].any(axis=1)) for left in (0, 720)]
    assert all(np.ptp(rows) > 200 for rows in heights)  # of 420 pixels: no flat line


def test_the_strip_shows_what_the_model_piles(some_cubes):
    model = ctsgan2021.CTSGANTraining(ctsgan2021.CTSGAN2021(network=TINY, slab=4))
    assert model.volumes(3).shape == (1, 28, 28, 28)
    model.generator.eval()
    with torch.no_grad():
        whole = pile(model.generator(model.generator.latent.noise(1, 26, torch.Generator().manual_seed(3))))
    assert torch.allclose(model.volumes(3), to_hounsfield(whole), atol=0.1)
