"""The presets that draw voxels: CT-SGAN as published, and the 3D GAN that it is compared with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..modelstore import ModelCard, load_into
from ..networks.ct_sgan import CTSGAN, CTSGANConfig, GAN3DConfig, VolumeGenerator, pile
from ..networks.recurrent_latent import RecurrentLatentConfig
from .mask_cgan import choose_device

AT_ONCE = 32  # slices


@torch.inference_mode()
def draw_voxels(card: ModelCard, seed: int, device: str = "auto") -> tuple[np.ndarray, tuple[float, float, float]]:
    """HU (k, j, i) int16 of volume ``seed``, and the voxels' size (i, j, k) in mm: the mean of the scans trained on."""
    numbers = dict(card.network)
    spacing = tuple(numbers.pop("spacing"))
    cube = numbers.pop("cube", None)
    device = choose_device(device)
    random = torch.Generator().manual_seed(seed)
    low, high = card.hu_map["range"]
    if card.kind == "gan3d":
        network = _loaded(VolumeGenerator(GAN3DConfig(**numbers)), card, device)
        volume = network(torch.randn(1, network.config.noise, generator=random).to(device)).float()
        volume = F.interpolate(volume, size=(cube,) * 3, mode="trilinear", align_corners=False)[0, 0]
    else:
        network = _loaded(CTSGAN(CTSGANConfig(**{**numbers, "latent": RecurrentLatentConfig(**numbers["latent"])})), card, device)
        length = network.config.image_size - 2
        noise = [part.to(device) for part in network.latent.noise(1, length, random)]
        volume = pile(torch.cat([network(noise, first, AT_ONCE) for first in range(0, length, AT_ONCE)], 1))[0]
    return ((volume.float() + 1) / 2 * (high - low) + low).round().short().cpu().numpy(), spacing


def _loaded(network, card, device):
    load_into(network, card)
    return network.to(device).eval()
