"""The injector as Jin et al. (2018) and paper 004 have it: it sees the volume of interest with its centre masked out and nothing else.

Where a nodule comes, the engine decides; how large it is, and of which kind, the network.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import SimpleITK as sitk
import torch

from ..modelstore import ModelCard, load_into
from ..networks.jin_generator import JinConfig, JinGenerator
from . import nodule_voi as voi_

KIND = "jin2018_injector"
SIDE, SPHERE_MM = 64, 32.0  # of the volume of interest, at 1 mm, and of what is erased in it (diameter)
HU_RANGE = (-1000.0, 600.0)  # becomes [-1, 1]
SEAM_MM = 4.0  # at the sphere's border, over which the scan comes back
LEAST_RISE = 120.0  # HU; what rose by so much is the nodule


@lru_cache(maxsize=4)
def sphere(side: int = SIDE) -> torch.Tensor:
    """What is erased (D, H, W), bool."""
    at = torch.arange(side) - (side - 1) / 2
    return at[:, None, None] ** 2 + at[:, None] ** 2 + at**2 <= (SPHERE_MM * side / SIDE / 2) ** 2


def unit(hu) -> torch.Tensor:
    """HU as [-1, 1]."""
    low, high = HU_RANGE
    return ((torch.as_tensor(np.asarray(hu, np.float32)) - low) / (high - low) * 2 - 1).clamp(-1, 1)


def hounsfield(units: torch.Tensor) -> torch.Tensor:
    low, high = HU_RANGE
    return (units + 1) / 2 * (high - low) + low


def masked(units: torch.Tensor) -> torch.Tensor:
    """``units`` (..., D, H, W) with the central sphere erased (0, the middle of the range)."""
    return units.masked_fill(sphere(units.shape[-1]), 0.0)


class MaskedInjector:
    """A trained generator; ``model(voi)`` is the volume of interest (D, H, W) in HU as it draws it, on the voi's grid of 1 mm."""

    def __init__(self, card: ModelCard, device: str = "cpu"):
        self.card, self.device = card, device
        self.network = JinGenerator(JinConfig(**card.settings))
        load_into(self.network, card)
        self.network.eval().requires_grad_(False).to(device)

    def __call__(self, voi: voi_.Voi) -> np.ndarray:
        with torch.inference_mode():
            seen = masked(unit(voi.to_grid(voi.hu)))[None, None].to(self.device)
            return hounsfield(self.network(seen))[0, 0].float().cpu().numpy()


def paint(model: MaskedInjector, voi: voi_.Voi, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network draws, brought to the scan's own grid: HU (k, j, i), how much of each voxel is new (0 to 1), and the nodule (bool).

    Only the sphere is pasted back, with a smooth seam, and only where it is ``inside`` the lung.
    """
    drawn = model(voi)
    k, j, i = ((np.arange(n) - c) * s for n, c, s in zip(voi.hu.shape, voi.centre, voi.native.spacing[::-1], strict=True))
    away = np.sqrt(k[:, None, None] ** 2 + j[:, None] ** 2 + i**2)
    share = (0.5 - 0.5 * np.cos(np.pi * np.clip((SPHERE_MM / 2 - away) / SEAM_MM, 0, 1))).astype(np.float32) * inside
    hu = voi.hu + share * (voi.to_native(drawn) - voi.hu)
    risen = (voi_.gaussian(hu - voi.hu, voi.native.spacing, 1.0) > LEAST_RISE) & (share > 0.5)
    parts = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray(risen.astype(np.uint8)))))
    return hu, share, parts == 1
