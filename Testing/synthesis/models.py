"""A small generator with random weights, saved as a model: the real network and code path, quick to run. It draws no anatomy."""

from dataclasses import asdict

import pytest
import torch

from CTSynthesisLib.modelstore import ModelCard, save_model
from CTSynthesisLib.networks.anatomy_generator import AnatomyGenerator, AnatomyGeneratorConfig
from CTSynthesisLib.networks.recurrent_latent import RecurrentLatentConfig
from CTSynthesisLib.networks.slab_unet import SlabUNet, SlabUNetConfig
from CTSynthesisLib.synthesis.hu_map import HUMap

NO_SAFETENSORS = "this test writes a model of its own, which needs safetensors; 3D Slicer 5.10 brings none"
SMALL = SlabUNetConfig(width=(6, 8, 10, 12, 16))


def random_generator(seed: int = 0, config: SlabUNetConfig = SMALL) -> SlabUNet:
    """A generator whose output depends on all it sees (its last layer is zero before training)."""
    torch.manual_seed(seed)
    network = SlabUNet(config).eval().requires_grad_(False)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    return network


def save_random_model(folder, name: str = "random") -> ModelCard:
    pytest.importorskip("safetensors", reason=NO_SAFETENSORS)
    from CTSynthesisLib.training.default import RECEPTIVE_FIELD

    return save_model(
        folder, random_generator().state_dict(), name=name, title="Random", kind="slab_gan", version="0", description="Test.",
        network=asdict(SMALL), hu_map=asdict(HUMap()), receptive_field=RECEPTIVE_FIELD,
    )  # fmt: skip


def save_random_anatomy(folder, name: str = "random-anatomy") -> ModelCard:
    """A model of anatomy that draws the standard anatomy, bent a little and of any stature."""
    pytest.importorskip("safetensors", reason=NO_SAFETENSORS)
    config = AnatomyGeneratorConfig(RecurrentLatentConfig(patient=4, slices=3, hidden=5), hidden=8, width=(6, 5, 4))
    torch.manual_seed(0)
    return save_model(
        folder, AnatomyGenerator(config).state_dict(), name=name, title="Random", kind="anatomy", version="0", description="Test.",
        network=asdict(config), hu_map={}, training_data=["one: tissue map", "two: tissue map"],
    )  # fmt: skip
