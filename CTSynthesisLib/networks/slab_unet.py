"""The default generator: a U-Net over slices that look at their neighbours, with a finite receptive field.

Slices run through two-dimensional convolutions; at four depths each slice is mixed with the one above and the one below, so a voxel sees
four slices to either side. Upsampling is resize + convolution. The only normalisation is per pixel over channels, so nothing looks at the
whole image and blocks of a large volume join without seams (paper 004's slab idea given to paper 000's generator).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

# At these levels each slice is mixed with its neighbours: four times in all, so that a voxel sees four slices to either side.
MIXED_GOING_DOWN = (1, 2, 4)
MIXED_GOING_UP = (1,)
SLICES_AT_ONCE = 8  # of the last convolution, which would double the memory of a whole block
SCALARS = 8  # the last channels of the condition hold for the whole scan


@dataclass(frozen=True)
class SlabUNetConfig:
    condition_channels: int = 20  # what synthesis.condition makes of a label map
    noise_channels: int = 2  # that it sees
    grain_channels: int = 5  # whose amplitudes it sets
    width: tuple[int, ...] = (24, 48, 96, 192, 256)  # channels at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution

    @property
    def stride(self) -> int:
        """Blocks begin at multiples of this many pixels, so that every block sees the same pooling grid."""
        return 2 ** (len(self.width) - 1)


class PixelNorm(nn.Module):
    """Unit root-mean-square over channels at each pixel (Karras et al. 2018); local, unlike instance or group norm."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)


class Conv(nn.Sequential):
    """3×3 convolution, leaky ReLU, pixel norm."""

    def __init__(self, inputs, outputs, stride=1, norm=True):
        layers = [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, *([PixelNorm()] if norm else []))


class SliceMix(nn.Module):
    """Adds to each slice a linear mix of itself and its two neighbours; the outermost slices stand in for the missing ones."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x, depth):
        # One 1×1 convolution of (below, here, above), taken apart: shifting what comes out copies less than shifting what goes in.
        parts = (F.conv2d(x, weight) for weight in self.mix.weight.split(x.shape[1], dim=1))
        below, mixed, above = (part.unflatten(0, (-1, depth)) for part in parts)  # (B, D, C, H, W)
        mixed = mixed + self.mix.bias.to(mixed.dtype)[:, None, None]
        mixed[:, 1:] += below[:, :-1]
        mixed[:, :1] += below[:, :1]
        mixed[:, :-1] += above[:, 1:]
        mixed[:, -1:] += above[:, -1:]
        return x + F.leaky_relu(mixed.flatten(0, 1), 0.2)

    def one(self, below, here, above):
        """A single slice: ``here`` (B, C, H, W) mixed with the slices ``below`` and ``above``."""
        return here + F.leaky_relu(self.mix(torch.cat([below, here, above], dim=1)), 0.2)


class SlabUNet(nn.Module):
    """Condition and noise in, residual over the expected HU map out.

    ``forward(condition, noise)`` takes ``condition`` (B, D, C, H, W) and ``noise`` (B, D, N, H, W) with H and W multiples of
    ``config.stride``. It returns the residual in network units (B, D, H, W), and the logarithms of the amplitudes with which the grain
    of each band is added to it (B, D, G, H, W).
    """

    def __init__(self, config: SlabUNetConfig | None = None):
        super().__init__()
        self.config = config = config or SlabUNetConfig()
        w = config.width
        levels = range(len(w) - 1)
        self.stem = Conv(config.condition_channels + config.noise_channels, w[0], norm=False)
        self.down = nn.ModuleList(nn.Sequential(Conv(w[n], w[n + 1], stride=2), Conv(w[n + 1], w[n + 1], norm=False)) for n in levels)
        self.bottom = Conv(w[-1], w[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(w[n + 1], w[n], 1) for n in levels)  # before enlarging, where it is cheap
        self.up = nn.ModuleList(Conv(w[n], w[n], norm=n > 0) for n in levels)
        self.mix_down = nn.ModuleList(SliceMix(w[n]) for n in MIXED_GOING_DOWN)
        self.mix_up = nn.ModuleList(SliceMix(w[n]) for n in MIXED_GOING_UP)
        self.last = Conv(w[0], w[0], norm=False)
        self.head = nn.Conv2d(w[0], 1 + config.grain_channels, 3, padding=1)
        self.tone = nn.Linear(SCALARS, config.grain_channels)  # how the scan as a whole sets the grain; by convolutions alone it came late
        self._initialise()

    def _initialise(self):
        """Unit gain from layer to layer (He et al. 2015): with PyTorch's default the gradient falls a hundredfold a level."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for mix in (*self.mix_down, *self.mix_up):
                mix.mix.weight *= 0.3
        nn.init.zeros_(self.head.weight)  # an untrained network adds nothing but faint grain
        nn.init.constant_(self.head.bias[1:], -4.5)
        nn.init.zeros_(self.tone.weight)
        nn.init.zeros_(self.tone.bias)

    def forward(self, condition, noise):
        batch, depth = condition.shape[:2]
        skips = [self.first(condition.flatten(0, 1), noise.flatten(0, 1))]
        for n, down in enumerate(self.down, start=1):
            x = down(skips[-1])  # (B·D, width[n], H/2ⁿ, W/2ⁿ)
            skips.append(self.mix_down[MIXED_GOING_DOWN.index(n)](x, depth) if n in MIXED_GOING_DOWN else x)
        return self.finish(self.decode(skips, depth).unflatten(0, (batch, depth)), condition)

    def first(self, condition, noise):
        """Features (N, C, H, W) of slices at full resolution from ``condition`` (N, C, H, W) and ``noise`` (N, N', H, W)."""
        return self.stem(_together(condition, noise))

    def decode(self, skips, depth, kept=slice(None)):
        """The maps (B·D, 1 + G, H, W) from what was found on the way down, one tensor (B·D, C, H/2ⁿ, W/2ⁿ) a level; uses up ``skips``.

        ``kept`` are those of each ``depth`` slices that are wanted; the others are there for them to look at (one slice to either side
        does), and level 0 then holds the wanted ones only.
        """
        x = self.bottom(skips.pop())
        for n in reversed(range(len(self.up))):
            x = F.interpolate(self.narrow[n](x), scale_factor=2, mode="nearest")
            x += skips.pop()
            x = self.up[n](x)
            if n in MIXED_GOING_UP:
                x = self.mix_up[MIXED_GOING_UP.index(n)](x, depth).unflatten(0, (-1, depth))[:, kept].flatten(0, 1)
        x = self.last(x)  # (B·D, width[0], H, W)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would step by several HU
            weight, bias = self.head.weight.float(), self.head.bias.float()
            return torch.cat([F.conv2d(part.float(), weight, bias, padding=1) for part in x.split(SLICES_AT_ONCE)])

    def finish(self, maps, condition):
        """Residual and logarithms of the amplitudes from the ``maps`` (B, D, 1 + G, H, W) of a slab."""
        with torch.autocast(maps.device.type, enabled=False):
            tone = self.tone(_scalars(condition).float())[:, None, :, None, None]  # (B, 1, G, 1, 1)
        return maps[:, :, 0], (maps[:, :, 1:] + tone).clamp(-8, 0)


def _together(condition, noise):
    """Both (N, C, H, W) as one channels-last tensor; cat and contiguous would copy twice."""
    channels = condition.shape[1]
    shape = len(condition), channels + noise.shape[1], *condition.shape[2:]
    x = torch.empty(shape, dtype=condition.dtype, device=condition.device, memory_format=torch.channels_last)
    x[:, :channels], x[:, channels:] = condition, noise
    return x


def _scalars(condition):
    """The figures that hold for the whole slab (B, SCALARS), the noise level as a logarithm; see ``Scan.scalars``."""
    scalars = condition[:, 0, -SCALARS:, 0, 0]
    noise, known = scalars[:, 2:3], scalars[:, 3:4]
    return torch.cat([scalars[:, :2], known * noise.clamp(min=0.05).log(), scalars[:, 3:]], dim=1)
