"""The style network: untrained it takes the step it is given, and neither pixels nor styles act farther than its field."""

import torch

from CTSynthesisLib.networks.style_unet import StyleUNet, StyleUNetConfig

FIELD = 96  # pixels


def _network(**more):
    torch.manual_seed(0)
    return StyleUNet(StyleUNetConfig(inputs=4, statistics=6, code=8, width=(8, 8, 8, 8), **more)).eval()


def _inputs(height=64, width=64):
    g = torch.Generator().manual_seed(1)
    where = torch.zeros(1, 2, height, width)
    where[:, 0, :, : width // 2], where[:, 1, :, width // 2 :] = 1, 1
    return torch.randn(1, 4, height, width, generator=g), torch.zeros(1, height, width), torch.randn(2, 6, generator=g), where


def test_untrained_it_takes_the_step():
    x, _, statistics, where = _inputs()
    guide = 0.3 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(_network()(x, guide, statistics, where), 3 * torch.tanh(-guide / 3), atol=1e-5)


def test_a_pixel_and_a_style_act_no_farther_than_the_field():
    network = _network()
    torch.nn.init.normal_(network.head.weight, 0, 0.3)
    x, guide, statistics, where = _inputs(64, 512)
    other, restyled = x.clone(), statistics.clone()
    other[:, :, 20, 20] += 1
    restyled[0] += 1
    with torch.no_grad():
        plain, moved, told = (network(*given) for given in ((x, guide, statistics, where), (other, guide, statistics, where),
                                                             (x, guide, restyled, where)))  # fmt: skip
    assert (moved != plain)[0, :, : 20 + FIELD].any() and (moved == plain)[0, :, 20 + FIELD :].all()
    assert (told != plain)[0, :, :256].any() and (told == plain)[0, :, 256 + FIELD :].all()
