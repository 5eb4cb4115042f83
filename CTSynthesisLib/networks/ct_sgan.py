"""CT-SGAN's slice generator and critics, and the vanilla 3D GAN of its Table 1 (Pesaranghader et al. 2021).

The paper names the sub-networks and their inputs, not their layers. "The model architecture is closely related to" MoCoGAN (its
reference 29): so these are DCGAN's layers (its reference 24), as MoCoGAN has them: transposed convolutions of kernel 4 and stride 2
with batch norm in the generator, leaky ReLU in the critics. The critics have no norm, because Mescheder's gradient penalty is one for
each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log2

import torch
from torch import nn

from .recurrent_latent import RecurrentLatent, RecurrentLatentConfig

CHANNELS = 3  # of a "3D slice": a slice between its two neighbours


@dataclass(frozen=True)
class CTSGANConfig:
    latent: RecurrentLatentConfig = field(default_factory=RecurrentLatentConfig)
    image_size: int = 224
    base: int = 7  # side of the generator's first map; ``image_size`` is it times a power of two
    filters: int = 16  # of the layer next to the image; doubled at each layer away from it
    most_filters: int = 256

    @property
    def widths(self) -> list[int]:
        """Filters from the image inwards, one a halving of its side."""
        return [min(self.filters * 2**n, self.most_filters) for n in range(round(log2(self.image_size // self.base)))]


class SliceGenerator(nn.Module):
    """G_slice: a slice's latent vectors z (B, size) → slices with their neighbours (B, 3, 224, 224) in [-1, 1]."""

    def __init__(self, config: CTSGANConfig = CTSGANConfig()):
        super().__init__()
        self.base, widths = config.base, config.widths[::-1]
        self.start = nn.Linear(config.latent.size, widths[0] * config.base**2)
        layers = [nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], CHANNELS, 4, 2, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.start(z).unflatten(1, (-1, self.base, self.base))  # (B, 256, 7, 7)
        return self.layers(x).tanh()


class CTSGAN(nn.Module):
    """R_v and G_slice together."""

    def __init__(self, config: CTSGANConfig = CTSGANConfig()):
        super().__init__()
        self.config = config
        self.latent = RecurrentLatent(config.latent)
        self.slices = SliceGenerator(config)

    def forward(self, noise, first: int = 0, count: int | None = None) -> torch.Tensor:
        """Three-slices (B, count, 3, H, W), ``first`` being the index of the first; R_v always runs over the whole volume's noise."""
        z = self.latent(*noise)[:, first : None if count is None else first + count]  # (B, count, size)
        return self.slices(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def pile(three_slices: torch.Tensor) -> torch.Tensor:
    """The volume (B, N + 2, H, W) of three-slices (B, N, 3, H, W): 224 slices of 222.

    "the collection of center slices form a volume when piled on top of each other (the first and the last 1D slices in the volumes are the
    neighbors of their associate 3D slices; hence 222 3D slices in total)"
    """
    return torch.cat([three_slices[:, :1, 0], three_slices[:, :, 1], three_slices[:, -1:, 2]], dim=1)


class SliceCritic(nn.Module):
    """D_slice: slices (B, C, H, W) and their positions (B,) from -1 to 1 → one decision each (B,), a logit or a Wasserstein score.

    "trained to determine if a single slice is sampled from a real CT-scan volume … with respect to the slice position": the position is one
    more channel.
    """

    def __init__(self, widths, channels: int = CHANNELS):
        super().__init__()
        layers = []
        for before, after in zip((channels + 1, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.decision = nn.Linear(widths[-1], 1)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, position[:, None, None, None].to(x).expand(-1, 1, *x.shape[2:])], 1)
        return _decided(self.decision, self.layers(x).mean((2, 3)))


class SlabCritic(nn.Module):
    """D_slab: T neighbouring slices (B, C, T, H, W) → one decision each (B,). Kernels reach over four slices, as in MoCoGAN."""

    def __init__(self, widths, channels: int = 1):
        super().__init__()
        layers = []
        for before, after in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv3d(before, after, (3, 4, 4), (1, 2, 2), 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.decision = nn.Linear(widths[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _decided(self.decision, self.layers(x).mean((2, 3, 4)))


def _decided(layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
    """Decisions (B,) in float32: Wasserstein's grow to thousands, where bfloat16 counts in steps of 32."""
    with torch.autocast(features.device.type, enabled=False):
        return layer(features.float())[:, 0]


@dataclass(frozen=True)
class GAN3DConfig:
    """The baseline "vanilla 3D GAN": 128³, all at once."""

    noise: int = 200  # of 3D-GAN (Wu et al. 2016)
    size: int = 128
    filters: int = 8
    most_filters: int = 128

    @property
    def widths(self) -> list[int]:
        return [min(self.filters * 2**n, self.most_filters) for n in range(round(log2(self.size // 4)))]


class VolumeGenerator(nn.Module):
    """Noise (B, 200) → volumes (B, 1, 128, 128, 128) in [-1, 1]."""

    def __init__(self, config: GAN3DConfig = GAN3DConfig()):
        super().__init__()
        self.config, widths = config, config.widths[::-1]
        layers = [nn.ConvTranspose3d(config.noise, widths[0], 4, bias=False), nn.BatchNorm3d(widths[0]), nn.ReLU(inplace=True)]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.ConvTranspose3d(before, after, 4, 2, 1, bias=False), nn.BatchNorm3d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose3d(widths[-1], 1, 4, 2, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z[:, :, None, None, None]).tanh()


class VolumeCritic(nn.Module):
    """Volumes (B, 1, 128, 128, 128) → one decision each (B,)."""

    def __init__(self, config: GAN3DConfig = GAN3DConfig()):
        super().__init__()
        layers = []
        for before, after in zip((1, *config.widths), config.widths, strict=False):
            layers += [nn.Conv3d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.decision = nn.Conv3d(config.widths[-1], 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decision(self.layers(x)).flatten()


def position_of(first: int, count: int, length: int) -> torch.Tensor:
    """Positions (count,) from -1 to 1 of three-slices ``first`` … of the ``length`` of a volume."""
    return torch.linspace(-1, 1, length)[first : first + count]


