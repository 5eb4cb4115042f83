"""Slices from label maps with a trained ``krishna2019`` model (Krishna & Mueller, 2019): whole 512×512 slices in the style of one scan.

Slices are framed as for ``habijan2022``: resized to fit a square and centred in it, so that millimetres keep their proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..anatomy import Tissue, Understood, ancestors, label_table
from ..modelstore import ModelCard, load_into
from ..networks.style_generator import StyleGenerator, StyleGeneratorConfig
from .habijan import frame, to_hounsfield, unframe
from .mask_cgan import autocast, choose_device

TABLE = "krishna2019"  # grey value → structure, in Resources/Anatomy


@dataclass(frozen=True, eq=False)
class KrishnaModel:
    """A loaded generator: one style."""

    network: StyleGenerator
    image_size: int
    hu_range: tuple[float, float]
    device: str

    def generate(
        self,
        values: np.ndarray,
        understood: Iterable[Understood],
        spacing: tuple[float, float] = (1.0, 1.0),
        *,
        seed: int = 0,
        between: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """CT of the label ``values`` (k, j, i) as int16 HU; slices must be axial, ``spacing`` is that of rows and columns in mm.

        One code z, drawn from ``seed``, serves all slices of a volume. ``between(fraction)`` is called after each slice and may raise.
        """
        grey = grey_values(values, understood)
        z = noise_code(seed, self.network.config.noise)
        result = np.empty(values.shape, np.int16)
        for k in range(len(grey)):
            y = to_network(frame(grey[k : k + 1], spacing, self.image_size, labels=True))
            image = generate_slices(self.network, y[:, None], z)[:, 0]
            hu = to_hounsfield((unframe(image, grey.shape[1:], spacing) + 1) / 2, self.hu_range)
            result[k] = hu[0].round().to(torch.int16).numpy()
            if between:
                between((k + 1) / len(grey))
        return result


def load(card: ModelCard, device: str = "auto") -> KrishnaModel:
    """The model of ``card``, as ``training.krishna2019.train`` writes it, on ``device``."""
    device = choose_device(device)
    network = StyleGenerator(StyleGeneratorConfig(**card.network["generator"]))
    load_into(network, card)
    network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return KrishnaModel(network, card.network["image_size"], tuple(card.hu_map["range"]), device)


@torch.no_grad()
def generate_slices(generator: StyleGenerator, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Images (n, 1, H, W) in [-1, 1] from label maps ``y`` (n, 1, H, W), with the stored statistics of batch norm, slice by slice."""
    training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    with autocast(device):
        images = [generator(one[None].to(device), z.to(device)).cpu() for one in y]
    generator.train(training)
    return torch.cat(images)


def noise_code(seed: int, size: int) -> torch.Tensor:
    """z (1, ``size``), standard normal; the same for the same seed."""
    return torch.randn(1, size, generator=torch.Generator().manual_seed(seed))


def segment_values() -> dict[str, int]:
    """Structure → grey value of the paper's figure 2, as assigned in Resources/Anatomy: {"air": 0, "body": 50, "lungs": 100, …}."""
    return {name: value for value, name in label_table(TABLE).items()}


def grey_values(values: np.ndarray, understood: Iterable[Understood]) -> np.ndarray:
    """Label ``values`` (k, j, i) as the paper's grey values, uint8.

    A segment counts for the structure it is or is a part of, and for ``body`` if it is none of the others.
    """
    grey = segment_values()
    understood = tuple(understood)
    table = np.full(int(max([values.max(), *(item.segment.value for item in understood)])) + 1, grey["body"], np.uint8)
    table[0] = grey["air"]
    for item in understood:
        line = [item.structure.name, *(structure.name for structure in ancestors(item.structure))]
        outside = item.structure.tissue is Tissue.AIR
        table[item.segment.value] = grey["air"] if outside else next((grey[name] for name in line if name in grey), grey["body"])
    return table[values]


def to_network(grey: torch.Tensor) -> torch.Tensor:
    """Grey values 0-255 to [-1, 1]."""
    return grey.float() / 127.5 - 1
