"""The completion network: which tissue lies where nobody said, guessed from the segments around it.

A small 3D U-Net on a grid of 4 mm. It sees the whole body, which the generator with its finite field cannot: a spine belongs at the back,
ribs around lungs, fat under the skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .slab_unet import PixelNorm


@dataclass(frozen=True)
class CompletionUNetConfig:
    inputs: int = 28  # what synthesis.completion makes of a label map
    classes: int = 6
    width: tuple[int, ...] = (16, 48, 96, 128)  # channels at 4, 8, 16 and 32 mm

    @property
    def stride(self) -> int:
        return 2 ** (len(self.width) - 1)


class Conv(nn.Sequential):
    """3×3×3 convolution, leaky ReLU, pixel norm."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.2, inplace=True), PixelNorm())


class CompletionUNet(nn.Module):
    """``forward(x)`` takes (B, inputs, D, H, W), each side a multiple of ``config.stride``; returns logits (B, classes, D, H, W)."""

    def __init__(self, config: CompletionUNetConfig | None = None):
        super().__init__()
        self.config = config = config or CompletionUNetConfig()
        w = config.width
        levels = range(len(w) - 1)
        self.stem = Conv(config.inputs, w[0])
        self.down = nn.ModuleList(nn.Sequential(Conv(w[n], w[n + 1], stride=2), Conv(w[n + 1], w[n + 1])) for n in levels)
        self.bottom = nn.Sequential(Conv(w[-1], w[-1]), Conv(w[-1], w[-1]))
        self.narrow = nn.ModuleList(nn.Conv3d(w[n + 1], w[n], 1) for n in levels)
        self.up = nn.ModuleList(Conv(2 * w[n], w[n]) for n in levels)
        self.head = nn.Conv3d(w[0], config.classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight *= 0.1

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)  # (B, width[n], D/2ⁿ, H/2ⁿ, W/2ⁿ)
        x = self.bottom(x)
        for n in reversed(range(len(self.up))):
            wider = F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest")
            x = self.up[n](torch.cat([skips[n], wider], dim=1))
        with torch.autocast(x.device.type, enabled=False):
            return F.conv3d(x.float(), self.head.weight.float(), self.head.bias.float())
