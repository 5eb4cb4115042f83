"""3D-SqueezeNet: its layers, its size, and that every voxel can change the answer."""

import pytest
import torch

from CTSynthesisLib.networks.squeezenet3d import Fire, SqueezeNet3D, SqueezeNet3DConfig

TINY = SqueezeNet3DConfig(stem=4, squeeze=(2, 2, 2), expand=4, pool_before=(0, 1))


def test_the_layers_are_squeezenet_1_1_in_three_dimensions():
    network = SqueezeNet3D()
    fires = [layer for layer in network.features if isinstance(layer, Fire)]
    assert [fire.squeeze[0].out_channels for fire in fires] == [16, 16, 32, 32, 48, 48, 64, 64]
    assert [fire.cube[0].out_channels + fire.point[0].out_channels for fire in fires] == [128, 128, 256, 256, 384, 384, 512, 512]
    assert [type(layer).__name__ for layer in network.features] == [
        "Sequential", "MaxPool3d", "Fire", "Fire", "MaxPool3d", "Fire", "Fire", "MaxPool3d", "Fire", "Fire", "Fire", "Fire"
    ]  # fmt: skip
    assert [fire.bypass for fire in fires] == [False, True] * 4
    convolutions = sum(p.numel() for p in network.parameters() if p.ndim == 5)
    by_hand = 64 * 27 + 512
    inputs = 64
    for s in (16, 16, 32, 32, 48, 48, 64, 64):
        by_hand += inputs * s + s * 4 * s + 27 * s * 4 * s
        inputs = 8 * s
    assert convolutions == by_hand


def test_a_fire_module_adds_its_input_where_the_channels_agree():
    x = torch.rand(1, 8, 4, 4, 4)
    for inputs, added in ((8, x), (4, 0 * x)):
        fire = Fire(inputs, 2, 8).eval()
        torch.nn.init.zeros_(fire.point[0].weight)
        torch.nn.init.zeros_(fire.cube[0].weight)
        assert torch.equal(fire(x[:, :inputs]), added)


@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 17, 33)])
def test_one_logit_a_volume_that_depends_on_all_of_it(shape):
    torch.manual_seed(0)
    network = SqueezeNet3D(TINY).eval()
    volumes = torch.rand(2, 1, *shape, requires_grad=True)
    logits = network(volumes)
    assert logits.shape == (2,)
    logits[0].backward()
    assert volumes.grad[1].abs().max() == 0
    assert (volumes.grad[0].abs().amax((0, 1, 2)) > 0).float().mean() > 0.9
