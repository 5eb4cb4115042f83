"""The re-segmenter: a small three-dimensional U-Net that names the tissue regions of a CT on a grid of 2 mm.

It measures, it does not generate: trained on real scans only, it says whether a synthetic CT shows what the label map asked for, and its
encoder gives the features in which distributions of scans are compared. Batch norm's stored statistics are its only normalisation, so a
scan may be worked through in slabs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

WORKING_SPACING = 2.0  # mm, in all three directions


@dataclass(frozen=True)
class SegmenterConfig:
    classes: int = 9  # what lies outside the body, and the regions of CTSynthesisLib.regions
    width: tuple[int, ...] = (16, 32, 64, 96)  # channels at 2, 4, 8 and 16 mm

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of it."""
        return 2 ** (len(self.width) - 1)


def windows(hu: torch.Tensor) -> torch.Tensor:
    """HU (B, D, H, W) as the network's two channels (B, 2, D, H, W): all of CT coarsely, and soft tissue finely."""
    hu = hu.float()
    return torch.stack([(hu / 500 + 0.5).clamp(-1.6, 2.5), ((hu - 30) / 120).clamp(-1.5, 1.5)], dim=1)


class Block(nn.Sequential):
    """Two 3×3×3 convolutions, each with batch norm and leaky ReLU; the first may halve the resolution."""

    def __init__(self, inputs, outputs, stride=1):
        layers = []
        for before, step in ((inputs, stride), (outputs, 1)):
            convolution = nn.Conv3d(before, outputs, 3, step, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm3d(outputs), nn.LeakyReLU(0.1, inplace=True)]
        super().__init__(*layers)


class Segmenter(nn.Module):
    """``forward(x)``: :func:`windows` (B, 2, D, H, W), sides multiples of ``config.stride`` → scores of the classes (B, C, D, H, W)."""

    def __init__(self, config: SegmenterConfig | None = None):
        super().__init__()
        self.config = config = config or SegmenterConfig()
        w = config.width
        levels = range(len(w) - 1)
        self.stem = Block(2, w[0])
        self.down = nn.ModuleList(Block(w[n], w[n + 1], stride=2) for n in levels)
        self.narrow = nn.ModuleList(nn.Conv3d(w[n + 1], w[n], 1) for n in levels)
        self.up = nn.ModuleList(Block(w[n], w[n]) for n in levels)
        self.head = nn.Conv3d(w[0], config.classes, 1)

    def encode(self, x: torch.Tensor, levels: int | None = None) -> list[torch.Tensor]:
        """The encoder's features (B, width[n], D/2ⁿ, H/2ⁿ, W/2ⁿ), n = 0 …, at most ``levels`` of them."""
        features = [self.stem(x.contiguous(memory_format=torch.channels_last_3d))]
        for down in self.down[: None if levels is None else levels - 1]:
            features.append(down(features[-1]))
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = self.encode(x)
        x = skips.pop()
        for n in reversed(range(len(self.up))):
            x = self.up[n](skips.pop() + F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest"))  # (B, width[n], D/2ⁿ, …)
        return self.head(x).float()
