"""The default generator's receptive field, proved by perturbation, and its shape rules."""

import pytest
import torch

from CTSynthesisLib.training.default import RECEPTIVE_FIELD
from Testing.synthesis.models import SMALL, random_generator

SIZE, DEPTH = 240, 11


@pytest.fixture(scope="module")
def an_input():
    torch.manual_seed(1)
    return torch.rand(1, DEPTH, SMALL.condition_channels, SIZE, SIZE), torch.rand(1, DEPTH, SMALL.noise_channels, SIZE, SIZE)


@pytest.fixture(scope="module")
def an_output(an_input):
    with torch.inference_mode():
        return random_generator()(*an_input)[0]


@pytest.mark.parametrize("offset", [(0, 0), (5, 10), (15, 7)])  # within a pooling cell of 16 pixels
def test_a_voxel_is_seen_no_further_than_the_card_says(an_input, an_output, offset):
    condition, noise = an_input[0].clone(), an_input[1]
    place = torch.tensor([DEPTH // 2, 112 + offset[0], 112 + offset[1]])
    condition[0, place[0], :, place[1], place[2]] += 1
    with torch.inference_mode():
        changed = (random_generator()(condition, noise)[0] != an_output)[0].nonzero()
    reach = (changed - place).abs().amax(0).tolist()
    assert reach[0] == RECEPTIVE_FIELD["slices"]
    assert 75 < reach[1] < RECEPTIVE_FIELD["pixels"]  # the condition's border plane looks one pixel further
    assert reach[2] < RECEPTIVE_FIELD["pixels"]


def test_the_receptive_field_is_what_the_design_allows():
    assert RECEPTIVE_FIELD["pixels"] <= 96 and RECEPTIVE_FIELD["slices"] <= 4


def test_an_untrained_generator_adds_nothing_but_grain():
    from CTSynthesisLib.networks.slab_unet import SlabUNet

    network = SlabUNet(SMALL)
    residual, amplitude = network(torch.rand(2, 3, SMALL.condition_channels, 32, 48), torch.rand(2, 3, SMALL.noise_channels, 32, 48))
    assert residual.shape == (2, 3, 32, 48) and amplitude.shape == (2, 3, SMALL.grain_channels, 32, 48)
    assert residual.abs().max() == 0 and amplitude.exp().max() < 0.05
