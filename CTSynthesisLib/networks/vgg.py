"""VGG-19 (Simonyan & Zisserman 2014) up to ``relu5_1``, the deepest layer that style losses read, with torchvision's parameter names.

With ``width`` 64 and three inputs the published ImageNet weights fit as they are; narrower, it is the shape of the encoder that ships.
"""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = (2, 2, 4, 4, 1)  # convolutions between poolings; VGG-19 has three more at the end, which no loss here reads
WIDENING = (1, 2, 4, 8, 8)
STYLE_LAYERS = (1, 3, 5, 9, 13)  # ReLUs counted from 1: the first, and the first after each pooling (paper 001, section 2.2)
CONTENT_LAYERS = (10,)  # the tenth ReLU, relu4_2


class VGG19(nn.Module):
    """``forward(x)``: images (B, inputs, H, W) → the activations of the ReLUs asked for, by their number from 1 to 13.

    Parameters
    ----------
    width : int
        Channels of the first block; later ones have 2, 4, 8 and 8 times as many.
    inputs : int
        Channels of the images.
    """

    def __init__(self, width: int = 64, inputs: int = 3):
        super().__init__()
        self.width, self.inputs = width, inputs
        layers = []
        for block, (convolutions, widening) in enumerate(zip(BLOCKS, WIDENING, strict=True)):
            if block:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width * widening, 3, padding=1), nn.ReLU()]
                inputs = width * widening
        self.features = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, layers: tuple[int, ...] = (*STYLE_LAYERS, *CONTENT_LAYERS)) -> dict[int, torch.Tensor]:
        found, relu = {}, 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                relu += 1
                if relu in layers:
                    found[relu] = x  # relu1_1 (B, 64, H, W), relu2_1 (B, 128, H/2, W/2) … relu5_1 (B, 512, H/16, W/16)
                if relu == max(layers):
                    break
        return found

    def channels(self, layer: int) -> int:
        """Number of feature maps N_l of ReLU ``layer``."""
        return [convolution.out_channels for convolution in self.features if isinstance(convolution, nn.Conv2d)][layer - 1]
