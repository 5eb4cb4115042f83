"""The slab critic: judges three neighbouring slices together, given the condition of the middle one.

Paper 004 trains its generator against one critic for slices and one for slabs; here each patch decision sees three slices, so one critic
does both. It works at two scales: the fine one judges texture, the coarse one anatomy (Wang et al. 2018, pix2pixHD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

SLICES = 3
DETAIL = 8.0  # amplifies what differs from the expected HU map; unamplified, the condition drowned it and the critic stayed at chance


@dataclass(frozen=True)
class SlabCriticConfig:
    condition_channels: int = 20
    width: tuple[int, ...] = (48, 96, 192, 256)
    scales: int = 2


class PatchCritic(nn.Module):
    """Strided convolutions with instance norm, then one decision a patch.

    A critic may look at the whole image where the generator may not. Under spectral norm it learned too slowly to be of use.
    """

    def __init__(self, inputs, width):
        super().__init__()
        self.layers = nn.ModuleList()
        for n, (before, after) in enumerate(zip((inputs, *width[:-1]), width, strict=True)):
            last = n == len(width) - 1
            convolution = nn.Conv2d(before, after, 3, padding=1) if last else nn.Conv2d(before, after, 4, stride=2, padding=1)
            self.layers.append(nn.Sequential(convolution, nn.InstanceNorm2d(after)) if n else convolution)
        self.decision = nn.Conv2d(width[-1], 1, 3, padding=1)

    def forward(self, x):
        """Decisions (N, 1, h, w), and the features before them."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.decision(x), features


class SlabCritic(nn.Module):
    """Decisions and features, one pair a scale, for ``slab`` and its ``expected`` HU map (B, D, H, W) and ``condition`` (B, D, C, H, W)."""

    def __init__(self, config: SlabCriticConfig | None = None):
        super().__init__()
        self.config = config = config or SlabCriticConfig()
        self.critics = nn.ModuleList(PatchCritic(2 * SLICES + config.condition_channels, config.width) for _ in range(config.scales))

    def forward(self, slab, expected, condition):
        images = [part.unfold(1, SLICES, 1).permute(0, 1, 4, 2, 3) for part in (slab, DETAIL * (slab - expected))]  # (B, D-2, 3, H, W)
        x = torch.cat([*images, condition[:, 1:-1]], dim=2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        results = []
        for critic in self.critics:
            results.append(critic(x))
            x = F.avg_pool2d(x, 2)
        return results
