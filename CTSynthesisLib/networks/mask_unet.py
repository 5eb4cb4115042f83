"""Generator of Habijan & Galić, "Generation of Artificial CT Images using Patch-based Conditional Generative Adversarial Networks" (2022).

Section III.B: "a UNet-based architecture with 7 convolutional and deconvolutional layers (implemented as transposed convolutions)";
"each convolutional and deconvolutional layer (except the last layers of both the generator and the discriminator)" is followed by batch
normalization and leaky ReLU; "the end of both networks is a convolutional layer of stride 1".

How this is read, where the paper leaves room:

- Seven convolutions of stride 2 take 256×256 to 2×2, seven transposed convolutions of stride 2 take it back, and the stride-1
  convolution at the end comes after them, as the discriminator's comes after its five. The paper's reference [18] (Abdi et al., 2019),
  which it follows in loss, learning rate and iterations, is built in this way.
- Kernel 4 for stride 2 (a multiple of the stride covers every pixel equally often), kernel 3 at the end (centred on its pixel);
  64 filters, doubled to at most 512; leaky slope 0.2; skip connections join layers of equal resolution: all as in [18] or, for the
  kernel at the end, our choice, because the paper gives no number.
- The output passes a sigmoid: images are normalized to [0, 1] (section III.A), and a sigmoid gives that range and no other.
- No noise and no dropout: the paper chose "a deterministic approach without randomness during training or inference" (section II.B).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class MaskUNetConfig:
    """Sizes of a :class:`MaskUNet`; images must have sides that are multiples of ``2**depth``."""

    mask_channels: int = 7
    filters: int = 64
    most_filters: int = 512
    depth: int = 7
    slope: float = 0.2


class MaskUNet(nn.Module):
    """Masks (B, mask_channels, H, W) in {0, 1} → images (B, 1, H, W) in (0, 1), float32.

    Parameters
    ----------
    config : MaskUNetConfig
    """

    def __init__(self, config: MaskUNetConfig = MaskUNetConfig()):
        super().__init__()
        self.config = config
        widths = [min(config.filters * 2**level, config.most_filters) for level in range(config.depth)]  # 64 128 256 512 512 512 512
        self.down = nn.ModuleList()
        channels = config.mask_channels
        for width in widths:
            self.down.append(_layer(nn.Conv2d, channels, width, config.slope))
            channels = width
        self.up = nn.ModuleList()
        for width in [*widths[-2::-1], config.filters // 2]:  # 512 512 512 256 128 64 32
            self.up.append(_layer(nn.ConvTranspose2d, channels, width, config.slope))
            channels = 2 * width  # its own and those of the skip connection
        self.end = nn.Conv2d(config.filters // 2, 1, kernel_size=3, stride=1, padding=1)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        x, skips = mask, []  # (B, mask_channels, 256, 256)
        for layer in self.down:
            x = layer(x)  # (B, 64, 128, 128) … (B, 512, 2, 2)
            skips.append(x)
        skips.pop()  # the innermost is x itself
        for layer in self.up:
            x = layer(x)  # (B, 512, 4, 4) … (B, 32, 256, 256)
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)  # (B, 1024, 4, 4) … (B, 128, 128, 128)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would step by 4-8 HU
            return torch.sigmoid(self.end(x.float()))  # (B, 1, 256, 256)


def _layer(convolution: type[nn.Module], inward: int, outward: int, slope: float) -> nn.Sequential:
    """A (transposed) convolution of stride 2, batch norm, leaky ReLU; the norm's shift takes the place of a bias."""
    # 0.2 is how much of each batch enters the stored statistics: Keras's momentum of 0.8, as in [18]
    return nn.Sequential(
        convolution(inward, outward, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outward, momentum=0.2),
        nn.LeakyReLU(slope, inplace=True),
    )
