"""CT-SGAN's networks: shapes at the paper's size, the piling rule, and what each part of the latent noise reaches."""

from itertools import pairwise

import pytest
import torch

from CTSynthesisLib.networks.ct_sgan import CTSGAN, CTSGANConfig, GAN3DConfig, SlabCritic, SliceCritic, VolumeCritic, VolumeGenerator, pile
from CTSynthesisLib.networks.recurrent_latent import RecurrentLatent, RecurrentLatentConfig

TINY = CTSGANConfig(latent=RecurrentLatentConfig(patient=3, slices=2, hidden=4), image_size=28, base=7, filters=2, most_filters=4)


def test_the_slice_latent_is_constant_patient_noise_beside_what_the_bilstm_makes_of_the_slices():
    latent = RecurrentLatent(TINY.latent)
    patient, slices, start = latent.noise(2, 9, torch.Generator().manual_seed(0))
    z = latent(patient, slices, start)
    assert z.shape == (2, 9, 3 + 2 * 4)
    assert torch.equal(z[:, :, :3], patient[:, None].expand(-1, 9, -1))
    assert all(not torch.equal(a, b) for a, b in pairwise(z[0, :, 3:]))


def test_the_recurrence_runs_both_ways_and_begins_with_h_0():
    latent = RecurrentLatent(TINY.latent)
    patient, slices, start = latent.noise(1, 9, torch.Generator().manual_seed(0))
    z = latent(patient, slices, start)
    changed = slices.clone()
    changed[:, 4] += 1
    differs = (latent(patient, changed, start) != z).any(2)[0]
    assert differs[:4].all() and differs[5:].all()  # a slice's noise is told to those before and after it
    assert (latent(patient, slices, start + 1) != z).any()


def test_slices_have_the_papers_size():
    generator = CTSGAN(CTSGANConfig(filters=2, most_filters=4)).eval()
    noise = generator.latent.noise(1, 222)
    with torch.no_grad():
        three_slices = generator(noise, 100, 2)
    assert three_slices.shape == (1, 2, 3, 224, 224) and three_slices.abs().max() <= 1


def test_a_region_is_part_of_the_whole_volume():
    """The recurrence sees the whole volume's noise, so a region is drawn as it would be in the volume."""
    generator = CTSGAN(TINY).eval()
    noise = generator.latent.noise(1, 10)
    with torch.no_grad():
        assert torch.allclose(generator(noise, 4, 3), generator(noise)[:, 4:7], atol=1e-6)


def test_centres_are_piled_between_the_outermost_neighbours():
    three_slices = torch.arange(4 * 3.0).reshape(1, 4, 3, 1, 1)  # slice n holds 3 n, 3 n + 1, 3 n + 2
    assert pile(three_slices).flatten().tolist() == [0, 1, 4, 7, 10, 11]
    assert pile(torch.zeros(1, 222, 3, 2, 2)).shape == (1, 224, 2, 2)


def test_the_slice_critic_judges_with_respect_to_the_position():
    critic = SliceCritic([2, 4])
    x = torch.randn(5, 3, 28, 28)
    here, there = critic(x, torch.zeros(5)), critic(x, torch.ones(5))
    assert here.shape == (5,) and (here != there).all()


def test_the_slab_critic_sees_the_order_of_slices():
    critic = SlabCritic([2, 4])
    slab = torch.randn(1, 1, 6, 28, 28)
    assert critic(slab).shape == (1,)
    assert critic(slab) != critic(slab[:, :, [0, 2, 1, 3, 4, 5]])


@pytest.mark.parametrize("size", (16, 128))
def test_the_baseline_draws_the_whole_volume_at_once(size):
    config = GAN3DConfig(noise=5, size=size, filters=1, most_filters=2)
    with torch.no_grad():
        volume = VolumeGenerator(config).eval()(torch.randn(1, 5))
        assert volume.shape == (1, 1, size, size, size) and volume.abs().max() <= 1
        assert VolumeCritic(config)(volume).shape == (1,)
