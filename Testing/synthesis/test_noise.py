"""Noise is a function of seed and world lattice position alone."""

import pytest
import torch

from CTSynthesisLib.synthesis.noise import lattice_noise


@pytest.fixture(scope="module")
def a_large_block():
    return lattice_noise(7, (-3, -64, 32), (24, 128, 160))


def test_a_smaller_block_holds_the_same_values(a_large_block):
    block = lattice_noise(7, (5, -32, 64), (4, 20, 37))
    assert torch.equal(block, a_large_block[:, 8:12, 32:52, 32:69])


def test_both_channels_have_unit_variance_and_no_mean(a_large_block):
    assert a_large_block.mean((1, 2, 3)).abs().max() < 0.05
    assert (a_large_block.std((1, 2, 3)) - 1).abs().max() < 0.1


def test_seeds_and_channels_are_independent(a_large_block):
    other = lattice_noise(8, (-3, -64, 32), (24, 128, 160))
    assert (a_large_block[0] * other[0]).mean().abs() < 0.02
    assert (a_large_block[0] * a_large_block[1]).mean().abs() < 0.02


@pytest.mark.parametrize("shift", [(4, 0, 0), (0, 24, 0), (0, 0, 24), (1, 1, 1)])
def test_distant_voxels_are_independent(a_large_block, shift):
    """No period or lattice line of the hash shows."""
    fine = a_large_block[0]
    moved = fine[shift[0] :, shift[1] :, shift[2] :]
    still = fine[: len(moved), : moved.shape[1], : moved.shape[2]]
    bound = 0.5 if shift == (1, 1, 1) else 0.02  # neighbours share the band limit
    assert (moved * still).mean().abs() < bound


def test_thick_slices_share_noise_with_their_neighbours():
    def correlation(overlap):
        noise = lattice_noise(1, (0, 0, 0), (16, 96, 96), overlap=overlap)[0]
        return float((noise[1:] * noise[:-1]).mean())

    assert correlation(0.01) == pytest.approx(0, abs=0.03)
    assert correlation(1.0) == pytest.approx(2 * 0.25 / (1 + 2 * 0.25**2), abs=0.03)  # of taps (1/4, 1, 1/4)
    assert correlation(2.0) > correlation(1.0)
