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

from .unet3d import Conv, UNet3D


@dataclass(frozen=True)
class NoduleUNetConfig:
    inputs: int = 5  # what is visible, where to paint, how far the nodule fills it, the simple composite, grain
    width: tuple[int, ...] = (16, 32, 64, 96)  # channels at 1, 2, 4 and 8 mm
    see_through: bool = False  # the eraser's: it may keep what shows through a nodule

    @property
    def stride(self) -> int:
        return 2 ** (len(self.width) - 1)


class NoduleUNet(UNet3D):
    """``forward(x)`` takes (B, inputs, D, H, W), each side a multiple of ``config.stride``.

    Returns, each (B, D, H, W), the correction in network units, the logarithm of the factor that its grain gets, and how much of the
    difference between what is visible and the simple composite is kept (0 to 1.5; 0 without ``config.see_through``).
    """

    def __init__(self, config: NoduleUNetConfig | None = None):
        config = config or NoduleUNetConfig()
        w = config.width  # an untrained network leaves the simple composite nearly as it is
        super().__init__(config.inputs, w, 2 + config.see_through, bottom=Conv(w[-1], w[-1]), concatenate=False, head=3, timid=0.02)
        self.config = config

    def forward(self, x):
        x = super().forward(x)
        through = 1.5 * (x[:, 2] - 3).sigmoid() if self.config.see_through else torch.zeros_like(x[:, 0])
        return x[:, 0], x[:, 1].clamp(-1.5, 1.5), through


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
