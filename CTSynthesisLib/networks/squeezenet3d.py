"""3D-SqueezeNet: the nodule classifier of paper 004 (section 4.2).

SqueezeNet 1.1 (Iandola et al. 2016) with every convolution and pooling in three dimensions and batch norm after each convolution, as
Köpüklü et al. made it ("Resource efficient 3D convolutional neural networks", 2019). Paper 004 names the network and gives no layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

SMALLEST = 16  # voxels a side: three poolings follow the first stride


@dataclass(frozen=True)
class SqueezeNet3DConfig:
    stem: int = 64
    squeeze: tuple[int, ...] = (16, 16, 32, 32, 48, 48, 64, 64)  # channels of each Fire module's 1×1×1 convolution
    expand: int = 8  # each Fire module gives this many times its squeeze channels, half by 1×1×1, half by 3×3×3
    pool_before: tuple[int, ...] = (0, 2, 4)  # Fire modules that a pooling precedes
    dropout: float = 0.5


class Fire(nn.Module):
    """``forward(x)``: (B, inputs, D, H, W) → (B, expand, D, H, W); x is added where the channels agree (simple bypass)."""

    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = _convolution(inputs, squeeze, 1)
        self.point = _convolution(squeeze, expand // 2, 1)
        self.cube = _convolution(squeeze, expand // 2, 3)
        self.bypass = inputs == expand

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        out = torch.cat([self.point(squeezed), self.cube(squeezed)], dim=1)
        return out + x if self.bypass else out


class SqueezeNet3D(nn.Module):
    """``forward(x)``: volumes (B, 1, D, H, W) in [0, 1], at least 16 voxels a side → logits (B,) of "there is a nodule"."""

    def __init__(self, config: SqueezeNet3DConfig | None = None):
        super().__init__()
        self.config = config = config or SqueezeNet3DConfig()
        layers: list[nn.Module] = [_convolution(1, config.stem, 3, stride=2)]
        channels = config.stem
        for n, squeeze in enumerate(config.squeeze):
            if n in config.pool_before:
                layers.append(nn.MaxPool3d(3, stride=2, padding=1))
            layers.append(Fire(channels, squeeze, config.expand * squeeze))
            channels = config.expand * squeeze
        self.features = nn.Sequential(*layers)
        self.classify = nn.Sequential(nn.Dropout(config.dropout), nn.Conv3d(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x)).mean((1, 2, 3, 4))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))
