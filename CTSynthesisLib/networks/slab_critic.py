"""The slab critic: judges three neighbouring slices together, given the condition of the middle one.

Paper 004 trains its generator against one critic for slices and one for slabs; here each patch decision sees three slices, so one critic
does both. It works at two scales: the fine one judges texture, the coarse one anatomy (Wang et al. 2018, pix2pixHD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

SLICES = 3


@dataclass(frozen=True)
class SlabCriticConfig:
    condition_channels: int = 18
    width: tuple[int, ...] = (48, 96, 192, 256)
    scales: int = 2


class PatchCritic(nn.Module):
    """Strided convolutions under spectral norm, then one decision a patch."""

    def __init__(self, inputs, width):
        super().__init__()
        *strided, last = zip((inputs, *width[:-1]), width, strict=True)
        layers = [nn.Conv2d(*channels, 4, stride=2, padding=1) for channels in strided]
        layers.append(nn.Conv2d(*last, 3, padding=1))
        self.layers = nn.ModuleList(spectral_norm(layer) for layer in layers)
        self.decision = spectral_norm(nn.Conv2d(width[-1], 1, 3, padding=1))

    def forward(self, x):
        """Decisions (N, 1, h, w), and the features before them."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.decision(x), features


class SlabCritic(nn.Module):
    """``forward(slab, condition)``: ``slab`` (B, D, H, W) in network units and ``condition`` (B, D, C, H, W) to one entry a scale."""

    def __init__(self, config: SlabCriticConfig | None = None):
        super().__init__()
        self.config = config = config or SlabCriticConfig()
        self.critics = nn.ModuleList(PatchCritic(SLICES + config.condition_channels, config.width) for _ in range(config.scales))

    def forward(self, slab, condition):
        triples = slab.unfold(1, SLICES, 1).permute(0, 1, 4, 2, 3)  # (B, D-2, 3, H, W)
        x = torch.cat([triples, condition[:, 1:-1]], dim=2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        results = []
        for critic in self.critics:
            results.append(critic(x))
            x = F.avg_pool2d(x, 2)
        return results
