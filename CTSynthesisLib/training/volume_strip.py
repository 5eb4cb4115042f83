"""The picture strip of a training of volumes: three planes of one generated volume, from its noise at 0, 10, 25, 50, 75 and 100 %."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

MOMENTS = (0.01, 0.1, 0.25, 0.5, 0.75, 1)
WINDOW = (-1000.0, 400.0)  # HU


class VolumeStrip:
    """``take(n)`` keeps three planes of ``volume()`` (k, j, i) in HU at the iterations of MOMENTS; ``draw`` puts them side by side."""

    def __init__(self, volume: Callable[[], torch.Tensor], folder: Path, iterations: int | None):
        self.volume, self.folder = volume, folder
        self.moments = {max(1, round(part * iterations)) for part in MOMENTS} if iterations else set()

    def take(self, done: int, last: bool = False):
        path = self.folder / f"{done:07d}.npy"
        if (done in self.moments or last) and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, planes_of(self.volume().numpy()))

    def draw(self, path: Path):
        from PIL import Image

        taken = sorted(self.folder.glob("*.npy"))
        if taken:
            Image.fromarray(np.concatenate([np.load(one) for one in taken], axis=1)).save(path)


def planes_of(hu: np.ndarray) -> np.ndarray:
    """Middle axial, coronal and sagittal plane of a cube (k, j, i), one below the other, grey (3 size, size) uint8; the head is up."""
    k, j, i = (n // 2 for n in hu.shape)
    planes = np.concatenate([hu[k], hu[::-1, j], hu[::-1, :, i]])
    low, high = WINDOW
    return ((np.clip(planes, low, high) - low) / (high - low) * 255).astype(np.uint8)
