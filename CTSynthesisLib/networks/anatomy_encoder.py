"""From a field to the noise that would have made it; needed only to train the model of anatomy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .anatomy_generator import UNIT_MM, AnatomyGeneratorConfig

WIDTHS = (24, 48, 64)
HIDDEN = 48


class AnatomyEncoder(nn.Module):
    """Fields (B, 3, K, J, I) in mm → mean and log variance of the patient noise (B, 2, patient) and of ε (B, 2, K, slices)."""

    def __init__(self, config: AnatomyGeneratorConfig):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False))
        rows, columns = (-(-n // 2 ** len(WIDTHS)) for n in config.knots[1:])
        self.flat = nn.Linear(WIDTHS[-1] * rows * columns, HIDDEN)
        self.recurrent = nn.LSTM(HIDDEN, HIDDEN, batch_first=True, bidirectional=True)
        self.patient = nn.Linear(2 * HIDDEN, 2 * config.latent.patient)
        self.slices = nn.Linear(2 * HIDDEN, 2 * config.latent.slices)

    def forward(self, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, length = field.shape[0], field.shape[2]
        x = (field / UNIT_MM).transpose(1, 2).flatten(0, 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        x, _ = self.recurrent(F.leaky_relu(self.flat(x.flatten(1)), 0.2).unflatten(0, (count, length)))
        patient = self.patient(x.mean(1)).unflatten(1, (2, -1))
        slices = self.slices(x).unflatten(2, (2, -1)).transpose(1, 2)
        return patient, slices
