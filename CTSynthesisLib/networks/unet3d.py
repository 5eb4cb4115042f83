"""A small 3D U-Net, as the completion network and the nodules' networks share it: 3×3×3 convolutions, pixel norm, resize + convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .slab_unet import PixelNorm


class Conv(nn.Sequential):
    """3×3×3 convolution, leaky ReLU, pixel norm."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.2, inplace=True), PixelNorm())


class UNet3D(nn.Module):
    """``forward(x)`` takes (B, inputs, D, H, W), each side a multiple of 2^(levels - 1); returns (B, outputs, D, H, W) in float32.

    Parameters
    ----------
    width : channels at 1, 1/2, 1/4 … of the resolution
    bottom : what the coarsest level passes through
    concatenate : whether skips are concatenated; else added
    head : size of the last convolution's kernel
    timid : the last convolution's first weights are multiplied by it
    """

    def __init__(self, inputs: int, width: tuple[int, ...], outputs: int, *, bottom: nn.Module, concatenate: bool, head: int, timid: float):
        super().__init__()
        w, self.concatenate = width, concatenate
        levels = range(len(w) - 1)
        self.stem = Conv(inputs, w[0])
        self.down = nn.ModuleList(nn.Sequential(Conv(w[n], w[n + 1], stride=2), Conv(w[n + 1], w[n + 1])) for n in levels)
        self.bottom = bottom
        self.narrow = nn.ModuleList(nn.Conv3d(w[n + 1], w[n], 1) for n in levels)
        self.up = nn.ModuleList(Conv((2 if concatenate else 1) * w[n], w[n]) for n in levels)
        self.head = nn.Conv3d(w[0], outputs, head, padding=head // 2)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight *= timid

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)  # (B, width[n], D/2ⁿ, H/2ⁿ, W/2ⁿ)
        x = self.bottom(x)
        for n in reversed(range(len(self.up))):
            wider = F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest")
            x = self.up[n](torch.cat([skips[n], wider], dim=1) if self.concatenate else skips[n] + wider)
        with torch.autocast(x.device.type, enabled=False):
            return F.conv3d(x.float(), self.head.weight.float(), self.head.bias.float(), padding=self.head.padding)
