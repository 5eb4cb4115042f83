"""A small generator with random weights, saved as a model: the real network and code path, quick to run. It draws no anatomy."""

from dataclasses import asdict

import torch

from CTSynthesisLib.modelstore import ModelCard, save_model
from CTSynthesisLib.networks.slab_unet import SlabUNet, SlabUNetConfig
from CTSynthesisLib.synthesis.hu_map import HUMap
from CTSynthesisLib.training.default import RECEPTIVE_FIELD

SMALL = SlabUNetConfig(width=(6, 8, 10, 12, 16))


def random_generator(seed: int = 0, config: SlabUNetConfig = SMALL) -> SlabUNet:
    """A generator whose output depends on all it sees (its last layer is zero before training)."""
    torch.manual_seed(seed)
    network = SlabUNet(config).eval().requires_grad_(False)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    return network


def save_random_model(folder, name: str = "random") -> ModelCard:
    return save_model(
        folder, random_generator().state_dict(), name=name, title="Random", kind="slab_gan", version="0", description="Test.",
        network=asdict(SMALL), hu_map=asdict(HUMap()), receptive_field=RECEPTIVE_FIELD,
    )  # fmt: skip
