"""Noise is a function of seed and world lattice position alone."""

import pytest
import torch

from CTSynthesisLib.synthesis.noise import add_grain, lattice_noise


@pytest.fixture(scope="module")
def a_large_block():
    return lattice_noise(7, (-3, -64, 32), (24, 128, 160))


def test_a_smaller_block_holds_the_same_values(a_large_block):
    block = lattice_noise(7, (5, -32, 64), (4, 20, 37))
    assert torch.equal(block, a_large_block[:, 8:12, 32:52, 32:69])


def test_all_channels_have_unit_variance_and_no_mean(a_large_block):
    assert a_large_block.mean((1, 2, 3)).abs().max() < 0.05
    assert (a_large_block.std((1, 2, 3)) - 1).abs().max() < 0.1


def test_seeds_and_channels_are_independent(a_large_block):
    other = lattice_noise(8, (-3, -64, 32), (24, 128, 160))
    assert (a_large_block[0] * other[0]).mean().abs() < 0.02
    assert (a_large_block[0] * a_large_block[4]).mean().abs() < 0.02


@pytest.mark.parametrize("shift", [(4, 0, 0), (0, 24, 0), (0, 0, 24), (1, 1, 1)])
def test_distant_voxels_are_independent(a_large_block, shift):
    """No period or lattice line of the hash shows."""
    fine = a_large_block[0]
    moved = fine[shift[0] :, shift[1] :, shift[2] :]
    still = fine[: len(moved), : moved.shape[1], : moved.shape[2]]
    bound = 0.5 if shift == (1, 1, 1) else 0.02  # neighbours share the band limit
    assert (moved * still).mean().abs() < bound


def test_shared_channels_continue_from_slice_to_slice_and_fresh_ones_do_not(a_large_block):
    across = (a_large_block[:, 1:] * a_large_block[:, :-1]).mean((1, 2, 3))
    assert across[:2].abs().max() < 0.03
    assert across[2:4] == pytest.approx([2 / 3, 2 / 3], abs=0.04)  # of taps (1, 2, 1)


def test_each_channel_has_its_band(a_large_block):
    """Centre of the in-plane power spectrum in cycles a pixel: fine, medium, blotches."""
    power = torch.fft.rfft(a_large_block, dim=-1).abs().square().mean((1, 2))
    frequency = torch.fft.rfftfreq(a_large_block.shape[-1])
    centre = (power * frequency).sum(-1) / power.sum(-1)
    assert centre[0] > 0.2 > centre[1] > 0.08 > centre[4]


def test_grain_is_added_with_its_amplitude(a_large_block):
    amplitude = torch.full((24, 5, 128, 160), -20.0)
    amplitude[:, 1] = 0.5
    added = add_grain(torch.zeros(24, 128, 160), amplitude, a_large_block)
    assert torch.allclose(added, torch.tensor(0.5).exp() * a_large_block[1], atol=1e-5)
