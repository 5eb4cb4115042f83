"""Slices from masks with a trained ``habijan2022`` model (Habijan & Galić, 2022): whole 256×256 slices, one at a time, no noise.

The paper resizes square 512×512 slices to 256×256. Other slices are resized to fit and centred in such a square, so that millimetres
keep their proportion; what is generated in the margins is cut off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..anatomy import Understood, ancestors
from ..errors import UnusableInput
from ..modelstore import ModelCard, load_into
from ..networks.mask_unet import MaskUNet, MaskUNetConfig
from .mask_cgan import choose_device, compute_dtype


@dataclass(frozen=True, eq=False)
class HabijanModel:
    """A loaded generator, and what its mask channels and its [0, 1] mean."""

    network: MaskUNet
    structures: tuple[str, ...]
    image_size: int
    hu_range: tuple[float, float]
    device: str

    def generate(
        self,
        values: np.ndarray,
        understood: Iterable[Understood],
        spacing: tuple[float, float] = (1.0, 1.0),
        *,
        between: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """CT of the label ``values`` (k, j, i) as int16 HU; slices must be axial, ``spacing`` is that of their rows and columns in mm.

        ``between(fraction)`` is called after each slice and may raise to stop.

        Raises
        ------
        UnusableInput
            If no segment is one of the structures that the model was trained on.
        """
        labels = channel_labels(values, understood, self.structures)
        if not labels.any():
            raise UnusableInput(f"This model draws {', '.join(self.structures)} only, and no segment is one of them; choose another model.")
        result = np.empty(values.shape, np.int16)
        for k in range(len(labels)):
            masks = one_hot(frame(labels[k : k + 1], spacing, self.image_size, labels=True), len(self.structures))
            image = generate_slices(self.network, masks)[:, 0]
            hounsfield = to_hounsfield(unframe(image, labels.shape[1:], spacing), self.hu_range)
            result[k] = hounsfield[0].round().to(torch.int16).numpy()
            if between:
                between((k + 1) / len(labels))
        return result


def load(card: ModelCard, device: str = "auto") -> HabijanModel:
    """The model of ``card``, as ``training.habijan2022.train`` writes it, on ``device``."""
    device = choose_device(device)
    network = MaskUNet(MaskUNetConfig(**card.network["generator"]))
    load_into(network, card)
    network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    for layer in (*network.down, *network.up):  # once here: autocast would convert all weights again for each slice
        layer[0].to(compute_dtype(device))
    return HabijanModel(network, tuple(card.network["structures"]), card.network["image_size"], tuple(card.hu_map["range"]), device)


@torch.no_grad()
def generate_slices(generator: MaskUNet, masks: torch.Tensor) -> torch.Tensor:
    """Images (n, 1, H, W) in [0, 1] from ``masks`` (n, channels, H, W), with the stored statistics of batch norm, slice by slice."""
    training = generator.training
    generator.eval()
    first = next(generator.parameters())
    images = [generator(mask[None].to(first.device, first.dtype, memory_format=torch.channels_last)).cpu() for mask in masks]
    generator.train(training)
    return torch.cat(images)


def channel_labels(values: np.ndarray, understood: Iterable[Understood], structures: Sequence[str]) -> np.ndarray:
    """uint8 (k, j, i): n + 1 where a segment is ``structures[n]`` or a part of it (a chamber is part of the heart), 0 elsewhere."""
    understood = tuple(understood)
    table = np.zeros(int(max([values.max(), *(item.segment.value for item in understood)])) + 1, np.uint8)
    for item in understood:
        line = [item.structure.name, *(structure.name for structure in ancestors(item.structure))]
        table[item.segment.value] = next((structures.index(name) + 1 for name in line if name in structures), 0)
    return table[values]


def one_hot(labels: torch.Tensor, channels: int) -> torch.Tensor:
    """Labels (n, H, W) to masks (n, channels, H, W), float32; label 0 is in no channel."""
    return (labels[:, None] == torch.arange(1, channels + 1, dtype=labels.dtype, device=labels.device)[:, None, None]).float()


def frame(slices: np.ndarray, spacing: tuple[float, float], size: int, *, labels: bool = False, outside: float = 0) -> torch.Tensor:
    """``slices`` (n, rows, columns) resized to fit a square of ``size`` pixels and centred in it; nearest neighbour for ``labels``.

    The two sides keep their proportion in mm. Images are averaged where they shrink; ``outside`` fills the margins.
    """
    stack = torch.from_numpy(slices.astype(np.float32, order="C"))[:, None]  # a copy: torch takes no view of reversed axes
    fit = _fit(slices.shape[1:], spacing, size)
    stack = F.interpolate(stack, fit, mode="nearest-exact") if labels else F.interpolate(stack, fit, mode="bilinear", antialias=True)
    top, left = (size - fit[0]) // 2, (size - fit[1]) // 2
    framed = F.pad(stack, (left, size - fit[1] - left, top, size - fit[0] - top), value=float(outside))[:, 0]
    return framed.to(torch.uint8) if labels else framed


def unframe(images: torch.Tensor, shape: tuple[int, int], spacing: tuple[float, float]) -> torch.Tensor:
    """The inverse of :func:`frame` for images (n, size, size): the margins cut off, resized to ``shape`` (rows, columns)."""
    size = images.shape[-1]
    rows, columns = _fit(shape, spacing, size)
    top, left = (size - rows) // 2, (size - columns) // 2
    inner = images[:, None, top : top + rows, left : left + columns]
    return F.interpolate(inner, tuple(shape), mode="bilinear", antialias=True)[:, 0]


def _fit(shape: tuple[int, int], spacing: tuple[float, float], size: int) -> tuple[int, int]:
    sides = np.array(shape) * np.array(spacing)
    return tuple(int(n) for n in np.maximum(1, np.rint(size * sides / sides.max())))


def to_unit(hounsfield: torch.Tensor, hu_range: tuple[float, float]) -> torch.Tensor:
    """HU to [0, 1] by one fixed line for all images; values beyond the range are clipped."""
    low, high = hu_range
    return ((hounsfield.float() - low) / (high - low)).clamp(0, 1)


def to_hounsfield(images: torch.Tensor, hu_range: tuple[float, float]) -> torch.Tensor:
    """[0, 1] to HU: the inverse of :func:`to_unit`."""
    low, high = hu_range
    return images * (high - low) + low
