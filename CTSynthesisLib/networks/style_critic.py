"""Discriminator D(x, y) of Krishna & Mueller (2019), section 2.1: "the same Convolution-BatchNorm-LeakyReLU building blocks", kernel 4,
stride 2, "the activation function of the output layer of D is a sigmoid function".

Seven layers take image and label map from 512×512 to 4×4; an eighth of the same kernel and stride, without padding, takes that to one
number, whose sigmoid is D's belief that the image is real. Filters and slope as in ``style_generator``; no norm at the input, as in DCGAN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class StyleCriticConfig:
    """Sizes of a :class:`StyleCritic`; images have sides of ``4 · 2**depth`` pixels."""

    filters: int = 64
    most_filters: int = 512
    depth: int = 7
    slope: float = 0.2


class StyleCritic(nn.Module):
    """Images x and label maps y (B, 1, H, W), both in [-1, 1] → logits (B,), float32; their sigmoid is D(x, y).

    The sigmoid itself is taken within the loss, where its logarithm is exact also for a D that is sure of itself.
    """

    def __init__(self, config: StyleCriticConfig = StyleCriticConfig()):
        super().__init__()
        self.config = config
        layers, channels = [], 2
        for level in range(config.depth):
            width = min(config.filters * 2**level, config.most_filters)  # 64 128 256 512 512 512 512
            layers.append(nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1, bias=level == 0))
            layers += [nn.BatchNorm2d(width)] if level else []
            layers.append(nn.LeakyReLU(config.slope))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 1, kernel_size=4, stride=2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = self.layers(torch.cat([x, y], dim=1))  # (B, 512, 4, 4)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()).flatten()  # (B,)
