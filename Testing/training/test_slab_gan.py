"""The default model's samples, losses and training step."""

import copy

import numpy as np
import pytest
import torch

from CTSynthesisLib.networks.slab_critic import SlabCriticConfig
from CTSynthesisLib.synthesis.condition import BODY, BONE, CHANNELS, CLASSES, LUNG, SOFT
from CTSynthesisLib.synthesis.hu_map import HUMap
from CTSynthesisLib.training.slab_data import Case, Sampling, SlabSampler, blur
from CTSynthesisLib.training.slab_gan import SlabGAN, SlabGANConfig
from CTSynthesisLib.training.slab_losses import blurred_error, feature_error, spread_error
from Testing.phantom import hounsfield, thorax
from Testing.synthesis.models import SMALL


@pytest.fixture(scope="module")
def a_case():
    labelmap = thorax(shape=(12, 96, 112), spacing=(3.0, 3.0, 2.5))
    hu = hounsfield(labelmap, noise=15)
    values = np.array([0, 1, 4, 4, 1, 1, 3], np.uint8)[labelmap.array]  # soft tissue, lungs, bone
    smooth = np.rint(blur(torch.from_numpy(hu.astype(np.float32)), 2.0).numpy()).astype(np.int16)
    return Case("phantom", hu, smooth, values, {1: SOFT, 3: BONE, 4: LUNG}, (3.0, 3.0, 2.5))


SAMPLING = Sampling(slices=4, size=64)


@pytest.fixture
def a_sampler(a_case):
    return SlabSampler([a_case], SAMPLING, HUMap(), batch=2, seed=3)


def test_a_batch_is_a_function_of_its_number(a_sampler):
    first, again, other = a_sampler(4), a_sampler(4), a_sampler(5)
    assert first["condition"].shape == (2, 4, CHANNELS, 64, 64) and first["noise"].shape == (2, 5, 4, 64, 64)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["real"], other["real"])


def test_image_and_condition_stay_together_under_augmentation(a_sampler):
    """Where the condition says bone or lung, the image has it, rotated and scaled or not."""
    hits = {BONE: [], LUNG: []}
    for n in range(6):
        batch = a_sampler(n)
        hu = HUMap().to_hu(batch["real"])
        for kind, seen in hits.items():
            seen.append(hu[batch["condition"][:, :, kind] > 0])
    assert torch.cat(hits[BONE]).median() == pytest.approx(250, abs=25)
    assert torch.cat(hits[LUNG]).median() == pytest.approx(-850, abs=25)


def test_granularity_is_mixed(a_sampler):
    """Some samples lose bone, lungs or all but the body to their coarser parent; some split soft tissue; some hide HU."""
    conditions = [c for n in range(24) for c in a_sampler(n)["condition"]]
    present = torch.stack([c[:, :CLASSES].amax(dim=(0, 2, 3)) for c in conditions])
    assert 0.2 < present[:, BONE].mean() < 0.9 and 0.2 < present[:, BODY].mean() < 1 and 0.5 < present[:, LUNG].mean() < 1
    known = torch.stack([c[:, CLASSES + 2][c[:, SOFT] > 0].mean() for c in conditions if c[:, SOFT].any()])
    assert (known < 0.1).any() and (known > 0.9).any()
    levels = [c[:, CLASSES + 1][c[:, SOFT] > 0].unique().numel() for c in conditions if c[:, SOFT].any()]
    assert max(levels) >= 2 and min(levels) == 1


def test_losses_against_values_by_hand():
    flat, raised = torch.zeros(1, 1, 32, 32), torch.full((1, 1, 32, 32), 0.25)
    assert blurred_error(4 * raised, flat) == pytest.approx(1 - 0.5 / 2)  # above the knee: |e| - knee / 2
    assert blurred_error(raised, flat) == pytest.approx(0.25**2 / 2 / 0.5)  # below it: e² / 2 knee
    assert blurred_error(raised, flat, weight=torch.tensor(0.5)) == pytest.approx(0.25**2 / 2)
    torch.manual_seed(0)
    grain = 0.1 * torch.randn(1, 4, 64, 64)
    assert spread_error(3 * grain, grain) == pytest.approx(np.log(3), abs=0.05)  # half the log ratio of energies
    assert spread_error(torch.roll(grain, 7, -1), grain) < 0.2  # another realisation is no error
    assert spread_error(blur(grain, 1.0), grain) > 0.5  # another spectrum is
    assert spread_error(grain[:, :1].expand(-1, 4, -1, -1), grain) > 0.5  # and so is the same grain in every slice
    assert feature_error([raised, 2 * raised], [2 * raised, 2 * raised]) == pytest.approx(0.25)  # (0.25/0.5 + 0) / 2


def test_a_step_moves_each_network_by_its_own_loss_only(a_sampler):
    gan = a_small_gan()
    batch = a_sampler(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch["plain"], batch["fake"] = gan.generate(batch)
        before = snapshot(gan.generator)
        gan.backward_critic(batch, {})
        assert snapshot(gan.generator) == before
        before = snapshot(gan.critic)
        gan.backward_generator(batch, {})
        assert snapshot(gan.critic) == before
        assert snapshot(gan.generator) != snapshot(a_small_gan().generator)


def test_a_tiny_training_lowers_its_loss(a_sampler):
    gan = a_small_gan()
    losses = [gan.step(a_sampler(n)) for n in range(30)]
    first, last = (np.mean([loss["spread"] for loss in part]) for part in (losses[:5], losses[-5:]))
    assert last < 0.95 * first


def test_state_resumes_where_it_stopped(a_sampler):
    gan = a_small_gan()
    gan.step(a_sampler(0))
    weights, rest = gan.state()
    weights, rest = copy.deepcopy((weights, rest))
    expected = gan.step(a_sampler(1))
    other = a_small_gan(seed=99)
    other.load_state(weights, rest)
    assert other.step(a_sampler(1)) == pytest.approx(expected, rel=1e-5)


def a_small_gan(seed=0):
    torch.manual_seed(seed)
    return SlabGAN(SlabGANConfig(generator=SMALL, critic=SlabCriticConfig(width=(8, 12, 16, 16)), generator_rate=2e-3, alone=0, spread=0.5))


def snapshot(module):
    return [float(p.detach().double().sum()) for p in module.parameters()]


def test_losses_keep_full_precision_under_autocast():
    image = torch.linspace(0.1, 0.2, 64).expand(1, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert blurred_error(image + 1e-3, image) == pytest.approx(1e-6, rel=1e-2)
