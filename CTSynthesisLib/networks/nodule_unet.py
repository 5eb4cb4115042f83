"""Nodule injector and eraser: one small 3D U-Net each, on a volume of interest at 1 mm (paper 004, appendix B; Jin et al. 2018).

As in paper 004 the injector sees the volume with its centre masked out, the eraser the volume with the nodule. Both also see what simple
means would put there (a parametric nodule; lung filled in from around), and return what has to be added to it. The normalisation is per
voxel over channels, so a volume of interest of any size gives the same inner voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .slab_unet import PixelNorm


@dataclass(frozen=True)
class NoduleUNetConfig:
    inputs: int = 5  # what is visible, where to paint, how far the nodule fills it, the simple composite, grain
    width: tuple[int, ...] = (16, 32, 64, 96)  # channels at 1, 2, 4 and 8 mm

    @property
    def stride(self) -> int:
        return 2 ** (len(self.width) - 1)


class Conv(nn.Sequential):
    """3×3×3 convolution, leaky ReLU, pixel norm."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(nn.Conv3d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.2, inplace=True), PixelNorm())


class NoduleUNet(nn.Module):
    """``forward(x)`` takes (B, inputs, D, H, W), each side a multiple of ``config.stride``.

    Returns the correction (B, D, H, W) in network units, and the logarithm (B, D, H, W) of the factor that its grain gets.
    """

    def __init__(self, config: NoduleUNetConfig | None = None):
        super().__init__()
        self.config = config = config or NoduleUNetConfig()
        w = config.width
        levels = range(len(w) - 1)
        self.stem = Conv(config.inputs, w[0])
        self.down = nn.ModuleList(nn.Sequential(Conv(w[n], w[n + 1], stride=2), Conv(w[n + 1], w[n + 1])) for n in levels)
        self.bottom = Conv(w[-1], w[-1])
        self.narrow = nn.ModuleList(nn.Conv3d(w[n + 1], w[n], 1) for n in levels)
        self.up = nn.ModuleList(Conv(w[n], w[n]) for n in levels)
        self.head = nn.Conv3d(w[0], 2, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight *= 0.02  # an untrained network leaves the simple composite nearly as it is

    def forward(self, x):
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)  # (B, width[n], D/2ⁿ, H/2ⁿ, W/2ⁿ)
        x = self.bottom(x)
        for n in reversed(range(len(self.up))):
            x = self.up[n](skips[n] + F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest"))
        with torch.autocast(x.device.type, enabled=False):
            x = F.conv3d(x.float(), self.head.weight.float(), self.head.bias.float(), padding=1)
        return x[:, 0], x[:, 1].clamp(-1.5, 1.5)


class NoduleCritic(nn.Module):
    """Judges patches: ``forward(image, condition, where)``, each (B, D, H, W), gives decisions (B, D/8, H/8, W/8).

    It sees the image, its fine structure amplified (lung's texture spans a tenth of a network unit), the condition, and where was painted,
    so that it can compare what lies there with the scan around it.
    """

    SHARPENED = 6.0

    def __init__(self, width: tuple[int, ...] = (16, 32, 64)):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, 4, stride=2, padding=1) for before, after in zip((4, *width[:-1]), width, strict=True)
        )
        self.decision = nn.Conv3d(width[-1], 1, 3, padding=1)

    def forward(self, image, condition, where):
        fine = self.SHARPENED * (image - F.avg_pool3d(image[:, None], 5, 1, 2, count_include_pad=False)[:, 0])
        x = torch.stack([image, fine, condition, where], dim=1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.decision(x)[:, 0]
