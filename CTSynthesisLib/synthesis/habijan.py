"""Slices from masks with a trained ``habijan2022`` model (Habijan & Galić, 2022): whole 256×256 slices, one at a time, no noise.

The paper resizes square 512×512 slices to 256×256. Other slices are resized to fit and centred in such a square, so that millimetres
keep their proportion; what is generated in the margins is cut off again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ..errors import UnusableInput
from ..networks.mask_unet import MaskUNet, MaskUNetConfig
from ..volume import Geometry, LabelMap


@dataclass(frozen=True, eq=False)
class TrainedHabijan:
    """A trained generator, and what its channels and its [0, 1] mean."""

    generator: MaskUNet
    structures: tuple[str, ...]
    image_size: int
    hu_range: tuple[float, float]


def load(folder: str | Path, device: str | torch.device = "cpu") -> TrainedHabijan:
    """Read ``model.json`` and ``model.safetensors``, as ``training.habijan2022.train`` writes them."""
    folder = Path(folder)
    try:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        generator = MaskUNet(MaskUNetConfig(**card["generator"]))
        generator.load_state_dict(load_file(folder / "model.safetensors"))
        details = tuple(card["structures"]), int(card["image_size"]), tuple(card["hu_range"])
    except Exception as error:  # each library has its own words for a damaged file
        raise UnusableInput(f"{folder} holds no whole habijan2022 model ({error}); train one, or copy the folder again.") from error
    return TrainedHabijan(generator.to(device, memory_format=torch.channels_last).eval(), *details)


@torch.no_grad()
def generate_slices(generator: MaskUNet, masks: torch.Tensor) -> torch.Tensor:
    """Images (n, 1, H, W) in [0, 1] from ``masks`` (n, channels, H, W), with the stored statistics of batch norm, slice by slice."""
    training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    images = [generator(mask[None].to(device, torch.float32, memory_format=torch.channels_last)).cpu() for mask in masks]
    generator.train(training)
    return torch.cat(images)


def generate(
    labelmap: LabelMap, trained: TrainedHabijan, *, names: dict | None = None, progress: Callable[[float], None] | None = None
) -> np.ndarray:
    """HU (k, j, i), int16, on the grid of ``labelmap``.

    Raises
    ------
    UnusableInput
        If no segment is one of the structures that the model was trained on.
    """
    labels = channel_labels(labelmap, trained.structures, names=names)
    if not labels.any():
        raise UnusableInput(f"No segment is one of the structures that this model knows ({', '.join(trained.structures)}).")
    volume = np.empty(labelmap.array.shape, np.int16)
    target, source = axial_view(volume, labelmap.geometry), axial_view(labels, labelmap.geometry)
    spacing = slice_spacing(labelmap)
    for k in range(len(source)):
        framed = frame(source[k : k + 1], spacing, trained.image_size, labels=True)
        image = generate_slices(trained.generator, one_hot(framed, len(trained.structures)))[:, 0]
        hounsfield = to_hounsfield(unframe(image, source.shape[1:], spacing), trained.hu_range)
        target[k] = hounsfield[0].round().to(torch.int16).numpy()
        if progress:
            progress((k + 1) / len(source))
    return volume


def channel_labels(labelmap: LabelMap, structures: Sequence[str], *, names: dict | None = None) -> np.ndarray:
    """uint8 (k, j, i): n + 1 where a segment is ``structures[n]`` or a part of it (a chamber is part of the heart), 0 elsewhere."""
    from ..anatomy import ancestors, understand

    table = np.zeros(int(max([labelmap.array.max(), *(segment.value for segment in labelmap.segments)])) + 1, np.uint8)
    for item in understand(labelmap.segments, names=names):
        line = [item.structure.name, *(structure.name for structure in ancestors(item.structure))]
        table[item.segment.value] = next((structures.index(name) + 1 for name in line if name in structures), 0)
    return table[labelmap.array]


def axial_view(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A view of ``array`` (k, j, i) as axial slices seen from the feet, however it is stored; writing to it writes to ``array``."""
    axes, flips = geometry.anatomical_axes
    return array.transpose(axes)[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def slice_spacing(volume) -> tuple[float, float]:
    """Spacing (row, column) in mm of the axial slices of a Volume or LabelMap."""
    axes, _ = volume.geometry.anatomical_axes
    return tuple(float(volume.geometry.spacing[2 - axis]) for axis in axes[1:])


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
