"""The model of anatomy: CT-SGAN's recurrent latent drives, slice after slice, where in a standard anatomy each place of a chest lies.

A generator of voxels trained on eight chests draws blurred ribs or copies; one of displacements draws each structure of the standard
anatomy where, and as large as, chests have it (Dalca et al. 2019 learn such deformations of a template). So a label map of a hundred
structures comes from a network of 300,000 weights, its borders as sharp as the template's at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi

import torch
import torch.nn.functional as F
from torch import nn

from .recurrent_latent import RecurrentLatent, RecurrentLatentConfig

SMOOTHING = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # along each axis: neighbouring slices and knots move together
UNIT_MM = 10.0  # of the network's output


@dataclass(frozen=True)
class Stature:
    """Standard deviations of what needs no learning: how tall and broad a person is, and how he lies. Ten numbers of noise."""

    size: float = 0.06  # log scale, all axes alike
    proportion: float = 0.08  # log scale, each axis by itself
    flattest: float = 0.15  # most, log scale, by which depth and width may part; beyond, a chest came out deeper than wide
    turn: float = 0.045  # rad
    shift: tuple[float, float, float] = (12.0, 5.0, 5.0)  # mm
    numbers: int = 10


@dataclass(frozen=True)
class AnatomyGeneratorConfig:
    latent: RecurrentLatentConfig = field(default_factory=lambda: RecurrentLatentConfig(patient=32, slices=8, hidden=32))
    stature: Stature = Stature()
    knots: tuple[int, int, int] = (36, 20, 28)  # (k, j, i): slices, and knots in a slice; j and i multiples of 4
    extent: tuple[float, float, float] = (288.0, 320.0, 448.0)  # mm
    hidden: int = 128
    width: tuple[int, int, int] = (64, 48, 32)
    waves: int = 4  # of a slice's position, told beside its latent vector


class AnatomyGenerator(nn.Module):
    """Noise, see :meth:`noise` → field (B, 3, K, J, I): displacement in mm along (k, j, i) at the knots.

    Its slice generator is told the slice's position, which CT-SGAN's critic is told too: a lung's apex and base are no matter of chance.
    What it draws is added to the mean field of the persons trained on and to a shift, scale and shear of each slice.
    """

    def __init__(self, config: AnatomyGeneratorConfig = AnatomyGeneratorConfig()):
        super().__init__()
        self.config = config
        _, rows, columns = config.knots
        self.latent = RecurrentLatent(config.latent)
        told = config.latent.size + 2 * config.waves + 1
        self.told = nn.Sequential(
            nn.Linear(told, config.hidden), nn.LeakyReLU(0.2), nn.Linear(config.hidden, config.hidden), nn.LeakyReLU(0.2)
        )
        self.linear = nn.Linear(config.hidden, 9)
        self.start = nn.Linear(config.hidden, config.width[0] * (rows // 4) * (columns // 4))
        self.blocks = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(config.width, (*config.width[1:], config.width[-1]), strict=True)
        )
        self.end = nn.Conv2d(config.width[-1], 3, 3, padding=1)
        nn.init.normal_(self.end.weight, 0, 0.01)
        nn.init.zeros_(self.end.bias)
        self.register_buffer("mean", torch.zeros(3, *config.knots))  # mm
        self.register_buffer("patient_mean", torch.zeros(config.latent.patient))
        self.register_buffer("patient_factor", torch.eye(config.latent.patient))

    def noise(self, count: int, generator: torch.Generator | None = None) -> tuple[torch.Tensor, ...]:
        """Gaussian noise for ``count`` persons: stature (B, 10), and what :class:`RecurrentLatent` takes."""
        stature = torch.randn(count, self.config.stature.numbers, generator=generator)
        return stature, *self.latent.noise(count, self.config.knots[0], generator)

    def forward(self, stature: torch.Tensor, patient: torch.Tensor, slices: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return self.with_stature(self.draw(self.latent(self.as_told(patient), slices, start)), stature)

    def as_told(self, patient: torch.Tensor) -> torch.Tensor:
        """Normal noise brought to the mean and covariance that the encoder told of the persons trained on (Ghosh et al. 2020).

        Those lie on a few directions of the latent space; normal noise beside them drew the mean person: a tenth of the fields' variance.
        """
        return self.patient_mean + patient @ self.patient_factor.T

    def with_stature(self, field: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``field`` seen through a scale, turn and shift: the place x looks where A x + t did."""
        s, knots = self.config.stature, field.shape[2:]
        log = s.size * noise[:, :1] + s.proportion * noise[:, 1:4]  # (B, 3)
        parted = log[:, 2] - log[:, 1]
        beyond = (parted - parted.clamp(-s.flattest, s.flattest)) / 2
        scale = (log + torch.stack([0 * beyond, beyond, -beyond], 1)).exp()
        a, b, c = (s.turn * noise[:, 4:7]).unbind(1)
        zero = torch.zeros_like(a)
        turn = torch.matrix_exp(torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).unflatten(1, (3, 3)))
        axes = [((torch.arange(n) + 0.5) / n - 0.5) * e for n, e in zip(knots, self.config.extent, strict=True)]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(field)
        shift = torch.tensor(s.shift).to(field) * noise[:, 7:]
        at = torch.einsum("nab,bdhw->nadhw", turn * scale[:, None], x) + shift[:, :, None, None, None]
        grid = torch.stack([2 * at[:, axis] / self.config.extent[axis] for axis in (2, 1, 0)], -1)
        return at - x + F.grid_sample(field, grid, padding_mode="border", align_corners=False)

    def draw(self, z: torch.Tensor) -> torch.Tensor:
        """The field of slice vectors z (B, K, size), of a person of the mean stature."""
        (count, length, _), (_, rows, columns) = z.shape, self.config.knots
        z = torch.cat([z, self._position(length).to(z).expand(count, -1, -1)], 2)
        told = self.told(z.flatten(0, 1))
        x = self.start(told).unflatten(1, (-1, rows // 4, columns // 4))  # (B K, 64, 5, 7)
        for n, block in enumerate(self.blocks):
            if n:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(block(x), 0.2)
        shift, down, across = self.linear(told).unflatten(1, (3, 3, 1, 1)).unbind(1)  # each (B K, 3, 1, 1)
        x = self.end(x) + shift + down * torch.linspace(-1, 1, rows).to(x)[:, None] + across * torch.linspace(-1, 1, columns).to(x)
        return self.mean + UNIT_MM * smoothed(x.unflatten(0, (count, length)).transpose(1, 2))  # (B, 3, K, 20, 28)

    def _position(self, length: int) -> torch.Tensor:
        at = torch.linspace(-1, 1, length)[:, None]
        times = pi / 2 * torch.arange(1, self.config.waves + 1)
        return torch.cat([at, (at * times).sin(), (at * times).cos()], 1)


def smoothed(x: torch.Tensor) -> torch.Tensor:
    """``x`` (B, C, K, J, I) smoothed along each axis, its borders continued."""
    taps = torch.tensor(SMOOTHING).to(x)
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = len(taps)
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = len(taps) // 2
        kernel = taps.reshape(shape).expand(x.shape[1], 1, *shape[2:])
        x = F.conv3d(F.pad(x, pad, mode="replicate"), kernel, groups=x.shape[1])
    return x
