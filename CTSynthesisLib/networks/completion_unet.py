"""The completion network: which tissue lies where nobody said, guessed from the segments around it.

A small 3D U-Net on a grid of 4 mm. It sees the whole body, which the generator with its finite field cannot: a spine belongs at the back,
ribs around lungs, fat under the skin.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .unet3d import Conv, UNet3D


@dataclass(frozen=True)
class CompletionUNetConfig:
    inputs: int = 28  # what synthesis.completion makes of a label map
    classes: int = 6
    width: tuple[int, ...] = (16, 48, 96, 128)  # channels at 4, 8, 16 and 32 mm

    @property
    def stride(self) -> int:
        return 2 ** (len(self.width) - 1)


class CompletionUNet(UNet3D):
    """``forward(x)`` takes (B, inputs, D, H, W), each side a multiple of ``config.stride``; returns logits (B, classes, D, H, W)."""

    def __init__(self, config: CompletionUNetConfig | None = None):
        config = config or CompletionUNetConfig()
        w = config.width
        bottom = nn.Sequential(Conv(w[-1], w[-1]), Conv(w[-1], w[-1]))
        super().__init__(config.inputs, w, config.classes, bottom=bottom, concatenate=True, head=1, timid=0.1)
        self.config = config
