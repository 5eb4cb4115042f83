"""The generator of paper 000 (section III.B), by what runs when a mask goes through it."""

import pytest
import torch
from torch import nn

from CTSynthesisLib.networks.mask_unet import MaskUNet, MaskUNetConfig


@pytest.fixture
def a_mask():
    return (torch.rand(1, 7, 256, 256, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def layers_in_order(network, *inputs):
    """The leaf modules in the order in which they run, with the shape of what they give."""
    order = []
    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(lambda module, _, output: order.append((module, tuple(output.shape)))) for leaf in leaves]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return order


def test_seven_convolutions_and_seven_transposed_ones_then_a_convolution_of_stride_1(a_mask):
    order = layers_in_order(MaskUNet(), a_mask)
    convolutions = [(module, shape) for module, shape in order if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    kinds = [(type(module), module.stride) for module, _ in convolutions]
    assert kinds == [(nn.Conv2d, (2, 2))] * 7 + [(nn.ConvTranspose2d, (2, 2))] * 7 + [(nn.Conv2d, (1, 1))]
    assert [shape[-1] for _, shape in convolutions] == [128, 64, 32, 16, 8, 4, 2, 4, 8, 16, 32, 64, 128, 256, 256]


def test_batch_norm_and_leaky_relu_follow_every_layer_but_the_last(a_mask):
    kinds = [type(module) for module, _ in layers_in_order(MaskUNet(), a_mask)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 7 + [nn.ConvTranspose2d, nn.BatchNorm2d, nn.LeakyReLU] * 7 + [nn.Conv2d]


def test_gives_images_between_0_and_1_in_float32_even_under_autocast(a_mask):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image = MaskUNet(MaskUNetConfig(filters=8, most_filters=16))(a_mask * 100)
    assert image.shape == (1, 1, 256, 256)
    assert image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1


def test_is_deterministic_while_training(a_mask):
    network = MaskUNet(MaskUNetConfig(filters=8, most_filters=16)).train()
    with torch.no_grad():
        assert torch.equal(network(a_mask), network(a_mask))


def test_skip_connections_carry_every_resolution():
    network = MaskUNet(MaskUNetConfig(mask_channels=1, filters=4, most_filters=8)).eval()
    given, taken = [], []
    for layer in network.down:
        layer.register_forward_hook(lambda module, _, output: given.append(output))
    for layer in network.up:
        layer.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 1, 128, 128))
    for skip, up in zip(given[-2::-1], taken[1:], strict=True):  # the innermost goes on by itself
        assert torch.equal(up[:, -skip.shape[1] :], skip)
