"""The discriminator of paper 000 (section III.B): five layers, one decision for each 32×32 pixels, image and mask together."""

import pytest
import torch
from torch import nn

from CTSynthesisLib.networks.patch_critic import PatchCritic, PatchCriticConfig


@pytest.fixture
def a_critic():
    torch.manual_seed(0)
    return PatchCritic(PatchCriticConfig(filters=8, most_filters=16)).eval()  # stored statistics: no pixel is seen through the norm


def pixels_seen(critic, row, column):
    """Rows and columns of the image and of the mask with an influence on one decision: (first row, last row, first, last column)."""
    mask, image = torch.rand(1, 7, 256, 256, requires_grad=True), torch.rand(1, 1, 256, 256, requires_grad=True)
    critic(mask, image)[0, 0, row, column].backward()
    spans = []
    for gradient in (image.grad[0, 0], mask.grad[0].abs().sum(0)):
        rows, columns = gradient.abs().sum(1).nonzero()[:, 0], gradient.abs().sum(0).nonzero()[:, 0]
        spans.append(tuple(int(n) for n in (rows[0], rows[-1], columns[0], columns[-1])))
    return spans


def test_decides_8_by_8_times_at_256():
    with torch.no_grad():
        decisions = PatchCritic()(torch.rand(2, 7, 256, 256), torch.rand(2, 1, 256, 256))
    assert decisions.shape == (2, 1, 8, 8)


def test_each_decision_covers_the_next_32_pixels(a_critic):
    (image, _), (right, _), (below, _) = pixels_seen(a_critic, 3, 3), pixels_seen(a_critic, 3, 4), pixels_seen(a_critic, 4, 3)
    assert right == (image[0], image[1], image[2] + 32, image[3] + 32)
    assert below == (image[0] + 32, image[1] + 32, image[2], image[3])


def test_each_decision_is_centred_on_its_own_patch_and_sees_158_pixels(a_critic):
    for seen in pixels_seen(a_critic, 4, 3):  # the patch of rows 128 to 159 and columns 96 to 127, in image and mask
        assert seen == (128 - 63, 159 + 63, 96 - 63, 127 + 63)


def test_five_layers_of_stride_2_then_a_head_of_stride_1():
    convolutions = [module for module in PatchCritic().modules() if isinstance(module, nn.Conv2d)]
    assert [module.stride for module in convolutions] == [(2, 2)] * 5 + [(1, 1)]
    assert convolutions[0].in_channels == 1 + 7  # the image, then its masks


def test_batch_norm_and_leaky_relu_follow_every_layer_but_the_last(a_critic):
    order = []
    for leaf in (module for module in a_critic.modules() if not list(module.children())):
        leaf.register_forward_hook(lambda module, *_: order.append(type(module)))
    with torch.no_grad():
        a_critic(torch.rand(1, 7, 64, 64), torch.rand(1, 1, 64, 64))
    assert order == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 5 + [nn.Conv2d]
