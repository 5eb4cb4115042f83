"""Discriminator of Habijan & Galić (2022), section III.B: it judges patches of an image together with the mask it should show.

"The discriminator works on the concatenation of the image and its condition and structurally has 5 layers"; batch norm and leaky ReLU
follow each layer but the last; "the end … is a convolutional layer of stride 1"; "patches of discriminator were set to 32×32 pixels".

Five layers of stride 2 halve the image five times, so that there is one decision for each 32×32 pixels (8×8 of them at 256×256), and
the stride-1 head turns the features into that decision. Each decision is centred on its own patch and, because kernels overlap, sees
some of the neighbouring ones too: 158×158 pixels. Kernels, filters and slope as in ``mask_unet``. There is no sigmoid: the
least-squares loss (equation 2) wants decisions near 1 for real and near 0 for generated pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class PatchCriticConfig:
    """Sizes of a :class:`PatchCritic`; one decision covers ``2**depth`` × ``2**depth`` pixels."""

    mask_channels: int = 7
    filters: int = 64
    most_filters: int = 512
    depth: int = 5
    slope: float = 0.2


class PatchCritic(nn.Module):
    """Masks (B, mask_channels, H, W) and images (B, 1, H, W) → decisions (B, 1, H/32, W/32), float32; 1 means real.

    Parameters
    ----------
    config : PatchCriticConfig
    """

    def __init__(self, config: PatchCriticConfig = PatchCriticConfig()):
        super().__init__()
        self.config = config
        layers, channels = [], config.mask_channels + 1
        for level in range(config.depth):
            width = min(config.filters * 2**level, config.most_filters)  # 64 128 256 512 512
            layers += [
                nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width, momentum=0.2),
                nn.LeakyReLU(config.slope, inplace=True),
            ]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 1, kernel_size=3, stride=1, padding=1)

    def forward(self, mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        x = torch.cat([image, mask], dim=1)  # (B, 1 + mask_channels, 256, 256)
        x = self.layers(x)  # (B, 512, 8, 8)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.float())  # (B, 1, 8, 8)
