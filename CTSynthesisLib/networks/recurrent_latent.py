"""R_v of CT-SGAN (Pesaranghader et al. 2021, section 2): from noise to one latent vector a slice.

"The random vector consists of two parts where the first is sampled from a constant patient-specific subspace and the second is sampled from
a variable slice-specific subspace … achieved through a BiLSTM network (R_v) where the network is fed with random inputs (ε_i and h_0)".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class RecurrentLatentConfig:
    """Dimensions: ``patient`` of the constant noise, ``slices`` of ε_i, ``hidden`` of each direction of the LSTM."""

    patient: int = 64
    slices: int = 64
    hidden: int = 64

    @property
    def size(self) -> int:
        """Dimensions of a slice's latent vector."""
        return self.patient + 2 * self.hidden


class RecurrentLatent(nn.Module):
    """Patient noise (B, patient), slice noise ε (B, N, slices) and h_0 (2, B, hidden) → z (B, N, patient + 2 · hidden)."""

    def __init__(self, config: RecurrentLatentConfig = RecurrentLatentConfig()):
        super().__init__()
        self.config = config
        self.recurrent = nn.LSTM(config.slices, config.hidden, batch_first=True, bidirectional=True)

    def forward(self, patient: torch.Tensor, slices: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        varying, _ = self.recurrent(slices, (start, torch.zeros_like(start)))  # (B, N, 2 * hidden)
        constant = patient[:, None].expand(-1, slices.shape[1], -1)
        return torch.cat([constant, varying], dim=2)

    def noise(self, count: int, length: int, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gaussian noise for ``count`` volumes of ``length`` slices: patient, ε and h_0, in this order from ``generator``."""
        c = self.config
        sizes = (count, c.patient), (count, length, c.slices), (2, count, c.hidden)
        return tuple(torch.randn(*size, generator=generator) for size in sizes)
