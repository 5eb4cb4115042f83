"""The 3D conditional GAN of Jin et al. (2018), which paper 004 takes as its nodule injector: generator and discriminator.

Both are the image-to-image networks of Isola et al. (2017), on which Jin et al. build, in three dimensions: an encoder and a decoder of
stride-2 (transposed) convolutions with skip connections, and a discriminator of patches that also sees the generator's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class JinConfig:
    width: tuple[int, ...] = (16, 32, 64, 128, 128)  # channels at 1/2, 1/4 … of the resolution; a quarter of Isola et al.'s, for a CPU


class JinGenerator(nn.Module):
    """``forward(x)``: volumes of interest (B, 1, D, H, W) in [-1, 1] with their centre masked out → whole ones (B, 1, D, H, W)."""

    def __init__(self, config: JinConfig | None = None):
        super().__init__()
        self.config = config = config or JinConfig()
        w = config.width
        self.down = nn.ModuleList(_down(before, after, norm=n > 0) for n, (before, after) in enumerate(zip((1, *w), w, strict=False)))
        self.up = nn.ModuleList(_up(w[n] * (1 if n == len(w) - 1 else 2), w[n - 1]) for n in reversed(range(1, len(w))))
        self.last = nn.ConvTranspose3d(2 * w[0], 1, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.down:
            x = down(x)  # (B, width[n], D/2ⁿ⁺¹, H/2ⁿ⁺¹, W/2ⁿ⁺¹)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = torch.cat([up(x), skips.pop()], dim=1)
        return self.last(x).tanh()


class JinDiscriminator(nn.Module):
    """``forward(seen, image)``: the generator's input and a volume, both (B, 1, D, H, W) → logits of patches (B, D/8 - 1, …)."""

    def __init__(self, config: JinConfig | None = None):
        super().__init__()
        w = (config or JinConfig()).width[:3]
        self.layers = nn.Sequential(*(_down(before, after, norm=n > 0) for n, (before, after) in enumerate(zip((2, *w), w, strict=False))),
                                    nn.Conv3d(w[-1], 1, 4, 1, 1))  # fmt: skip

    def forward(self, seen: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([seen, image], dim=1))[:, 0]


def _down(inputs, outputs, *, norm):
    layers = [nn.Conv3d(inputs, outputs, 4, 2, 1, bias=not norm)] + ([nn.BatchNorm3d(outputs)] if norm else [])
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


def _up(inputs, outputs):
    return nn.Sequential(nn.ConvTranspose3d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU())
