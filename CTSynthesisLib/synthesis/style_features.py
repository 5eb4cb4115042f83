"""The features in which styles are compared: VGG-19's, from torchvision's ImageNet weights or from the encoder that ships, and what is
computed of them: Gram matrices of masked features (paper 001, equations 3 and 6).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import UnusableInput
from ..modelstore import load_card, load_into
from ..networks.vgg import CONTENT_LAYERS, STYLE_LAYERS, VGG19

ENCODER = "style_encoder"
IMAGENET_FILE = "vgg19-dcbb9e9d.pth"
IMAGENET_SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"  # torchvision's name carries the first eight digits
ENVIRONMENT = "CTSYNTHESIS_VGG19"  # the file's path, so that it is asked for once
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_HU = (-1000.0, 1000.0)  # black and white of what an ImageNet network is shown
WINDOWS = ((0.0, 600.0), (40.0, 120.0), (-780.0, 200.0))  # centre and scale in HU: all of CT, soft tissue, lung


def ct_windows(hu: torch.Tensor) -> torch.Tensor:
    """HU (B, 1, H, W) as the three channels (B, 3, H, W) of the encoder that ships; windows that saturate softly keep a gradient."""
    return torch.cat([((hu - centre) / scale).tanh() for centre, scale in WINDOWS], dim=1)


def imagenet_grey(hu: torch.Tensor) -> torch.Tensor:
    """HU (B, 1, H, W) as grey in all three channels, normalised as torchvision's weights want it."""
    low, high = GREY_HU
    mean, std = (torch.tensor(v, device=hu.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (((hu - low) / (high - low)).clamp(0, 1) - mean) / std


@dataclass(frozen=True, eq=False)
class StyleFeatures:
    """A feature network and what it is shown. ``name`` says which, for cards and reports."""

    network: VGG19
    name: str

    def __call__(self, hu: torch.Tensor, layers: tuple[int, ...] = (*STYLE_LAYERS, *CONTENT_LAYERS)) -> dict[int, torch.Tensor]:
        """Features φ^l (equation 1) of images in HU (B, 1, H, W): {layer: (B, N_l, H_l, W_l)}."""
        seen = imagenet_grey(hu) if self.name == "imagenet" else ct_windows(hu)
        return self.network(seen.contiguous(memory_format=torch.channels_last), layers)


@lru_cache(maxsize=2)
def load_features(imagenet: str | Path | None = None) -> StyleFeatures:
    """The encoder that ships, or with ``imagenet`` torchvision's VGG-19 from the file ``vgg19-dcbb9e9d.pth`` of that path.

    Raises
    ------
    UnusableInput
        If the file is missing or not the published one.
    """
    imagenet = imagenet or os.environ.get(ENVIRONMENT)
    if imagenet:
        return StyleFeatures(_frozen(_imagenet(Path(imagenet))), "imagenet")
    return load_encoder()


@lru_cache(maxsize=1)
def load_encoder() -> StyleFeatures:
    """The encoder that ships."""
    card = load_card(ENCODER)
    network = VGG19(card.network["width"])
    load_into(network, card)
    return StyleFeatures(_frozen(network), card.name)


def _imagenet(path: Path) -> VGG19:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableInput(f"The file '{path}' cannot be read ({error.strerror}); name torchvision's {IMAGENET_FILE}.") from error
    if hashlib.sha256(content).hexdigest() != IMAGENET_SHA256:
        raise UnusableInput(f"'{path}' is not torchvision's {IMAGENET_FILE}: its checksum differs; get the published file again.")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = VGG19()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})  # what follows relu5_1 is not used
    return network


def _frozen(network: VGG19) -> VGG19:
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def gram(features: torch.Tensor) -> torch.Tensor:
    """Equation 3: G_ij = Σ_k F_ik F_jk of features (B, N, H, W) → (B, N, N), summed over positions, not divided by them."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2)


def mask_at(mask: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """A segment's mask (B, 1, H, W) brought to the size of ``features`` (B, N, h, w): the share of each position that it fills."""
    return F.adaptive_avg_pool2d(mask.float(), features.shape[-2:])


def masked_gram(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Gram matrix of features within a segment: RR_sg or SS_sg of equation 6. ``mask`` is (B, 1, H, W) at the image's size."""
    return gram(features * mask_at(mask, features))


def normalised_gram(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same divided by the segment's area in the layer (B, N, N): second moments of its features, whatever its size.

    Two scans show different amounts of an organ, and an unnormalised Gram matrix mostly says how much.
    """
    share = mask_at(mask, features)
    weighted = features * share.sqrt()
    return gram(weighted) / share.sum((2, 3), keepdim=True)[:, 0].clamp(min=1e-6)
