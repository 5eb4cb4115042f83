"""The style network: a small U-Net that brings a restyled CT nearer to its reference, told of each structure's style by its statistics.

It works at half the resolution: four pixels become channels, and channels four pixels. Each structure's statistics become a style code; at
every level the code scales and shifts the features of the pixels that belong to the structure (region-adaptive modulation, Zhu et al. 2020,
"SEAN", without its instance norm). Slices run through by themselves, and see their neighbours in the input only. As in ``slab_unet`` the
only normalisation is per pixel, so nothing looks at the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .slab_unet import PixelNorm


@dataclass(frozen=True)
class StyleUNetConfig:
    inputs: int = 19  # what synthesis.style_network shows it of an image
    statistics: int = 1495  # numbers that describe a structure's style
    code: int = 48
    width: tuple[int, ...] = (32, 64, 96, 128)  # channels at 1/2, 1/4, 1/8 and 1/16 of the resolution
    dropout: float = 0.1  # of the statistics, in training: few scans have to stand for many

    @property
    def stride(self) -> int:
        return 2 ** len(self.width)


class Modulated(nn.Module):
    """3×3 convolution, pixel norm, scale and shift by the structures' codes, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, code: int, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm = PixelNorm()
        self.modulation = nn.Linear(code, 2 * outputs)
        nn.init.kaiming_normal_(self.convolution.weight, a=0.2)
        nn.init.zeros_(self.convolution.bias)
        nn.init.normal_(self.modulation.weight, 0.0, 0.3 * code**-0.5)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x, codes, where):
        """``codes`` (S, code), ``where`` (B, S, H, W): the share of each pixel that each structure fills."""
        x = self.norm(self.convolution(x))
        change = F.conv2d(where.to(x.dtype), self.modulation(codes).T[:, :, None, None].to(x.dtype))  # (B, 2·outputs, H, W)
        scale, shift = change.chunk(2, dim=1)
        return F.leaky_relu(torch.addcmul(x + shift, x, scale), 0.2)


class StyleUNet(nn.Module):
    """``forward(x, guide, statistics, where)``: the residual (B, H, W), in spreads of the reference's structures, between -3 and 3.

    ``x`` is (B, inputs, H, W), ``guide`` (B, H, W) what is to be taken away, ``statistics`` (S, n) one line a structure,
    ``where`` (B, S, H, W) the structures' masks; H and W are multiples of ``config.stride``. Untrained, it takes the step as it is.
    """

    def __init__(self, config: StyleUNetConfig | None = None):
        super().__init__()
        self.config = config = config or StyleUNetConfig()
        w, code = config.width, config.code
        levels = range(len(w) - 1)
        self.encode = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.statistics, 96), nn.LeakyReLU(0.2), nn.Linear(96, code), nn.LeakyReLU(0.2)
        )
        self.stem = Modulated(4 * config.inputs, w[0], code)
        self.down = nn.ModuleList(Modulated(w[n], w[n + 1], code, stride=2) for n in levels)
        self.deeper = nn.ModuleList(Modulated(w[n + 1], w[n + 1], code) for n in levels)
        self.narrow = nn.ModuleList(nn.Conv2d(w[n + 1], w[n], 1) for n in levels)
        self.up = nn.ModuleList(Modulated(w[n], w[n], code) for n in levels)
        self.head = nn.Conv2d(w[0], 8, 3, padding=1)  # of each of four pixels what is added, and the logarithm of the step
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x, guide, statistics, where):
        with torch.autocast(x.device.type, enabled=False):
            codes = self.encode(statistics.float())
        shares = [F.avg_pool2d(where, 2)]
        for _ in self.down:
            shares.append(F.avg_pool2d(shares[-1], 2))
        x = self.stem(F.pixel_unshuffle(x, 2), codes, shares[0])
        skips = []
        for n, (down, deeper) in enumerate(zip(self.down, self.deeper, strict=True), start=1):
            skips.append(x)
            x = down(x, codes, shares[n])
            x = x + deeper(x, codes, shares[n])  # (B, width[n], H/2ⁿ⁺¹, W/2ⁿ⁺¹)
        for n in reversed(range(len(self.up))):
            wider = F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest")
            x = self.up[n](wider + skips[n], codes, shares[n])
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would step by several HU
            x = F.conv2d(x.float(), self.head.weight.float(), self.head.bias.float(), padding=1)
        added, step = F.pixel_shuffle(x, 2).unbind(1)
        return 3 * torch.tanh((added - step.clamp(-3, 3).exp() * guide) / 3)
