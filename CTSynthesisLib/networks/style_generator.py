"""Generator G(y, z) of Krishna & Mueller, "Medical (CT) Image Generation with Style" (2019), section 2.1.

"The noise code z is fully connected to the first layer, which is then reshaped. We use kernel size 4 and stride 2 without any pooling
layer"; "multiple Convolution-BatchNorm-LeakyReLU components"; "the activation function of the output layer of G is tanh".

How this is read, where the paper leaves room:

- z enters at the first layer: it is fully connected to a map of 32×32, which is reshaped, resized to the image and joined with y as a
  second channel. Onto 512×512 itself the connection would take 52 million weights; this one takes 0.2 million.
- Seven convolutions of stride 2 take 512×512 to 4×4, seven transposed ones take it back; 64 filters, doubled to at most 512, and slope
  0.2 as in DCGAN (its reference 5), which also leaves batch norm out at the output.
- Skip connections add each encoder layer to the decoder layer of the same size, as in its reference 4 (Mao et al. 2016), which it names
  for its encoder-decoder strategy.
- With mini-batches of one image, batch norm in training normalises each image by itself. At inference it uses the averages that it stored
  in training, so a result does not depend on what else is in the batch, nor on the image's own statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class StyleGeneratorConfig:
    """Sizes of a :class:`StyleGenerator`; the sides of images are multiples of ``2**depth``, and at least twice that."""

    noise: int = 200  # dimensions of z
    noise_map: int = 32  # pixels a side of the map that z is connected to
    filters: int = 64
    most_filters: int = 512
    depth: int = 7
    slope: float = 0.2


class StyleGenerator(nn.Module):
    """Label maps y (B, 1, H, W) in [-1, 1] and codes z (B, 200) → images (B, 1, H, W) in (-1, 1), float32."""

    def __init__(self, config: StyleGeneratorConfig = StyleGeneratorConfig()):
        super().__init__()
        self.config = config
        widths = [min(config.filters * 2**level, config.most_filters) for level in range(config.depth)]  # 64 128 256 512 512 512 512
        self.noise = nn.Linear(config.noise, config.noise_map**2)
        self.down = nn.ModuleList()
        channels = 2
        for level, width in enumerate(widths):
            self.down.append(_layer(nn.Conv2d, channels, width, config.slope, norm=level > 0))
            channels = width
        self.up = nn.ModuleList(
            _layer(nn.ConvTranspose2d, *sizes, config.slope) for sizes in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )  # 512 512 512 256 128 64
        self.end = nn.ConvTranspose2d(config.filters, 1, kernel_size=4, stride=2, padding=1)

    def forward(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        side = self.config.noise_map
        code = self.noise(z).reshape(-1, 1, side, side)  # (B, 1, 32, 32)
        x = torch.cat([y, F.interpolate(code, size=y.shape[-2:], mode="bilinear", align_corners=False).to(y.dtype)], dim=1)
        skips = []
        for layer in self.down:
            x = layer(x)  # (B, 64, 256, 256) … (B, 512, 4, 4)
            skips.append(x)
        skips.pop()  # the innermost is x itself
        for layer in self.up:
            x = layer(x) + skips.pop()  # (B, 512, 8, 8) … (B, 64, 256, 256)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would step by 4-8 HU
            return torch.tanh(self.end(x.float()))  # (B, 1, 512, 512)


def _layer(convolution: type[nn.Module], inward: int, outward: int, slope: float, norm: bool = True) -> nn.Sequential:
    """Convolution - batch norm - leaky ReLU; the norm's shift takes the place of a bias."""
    layers = [convolution(inward, outward, kernel_size=4, stride=2, padding=1, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(outward)] if norm else []), nn.LeakyReLU(slope))
