"""The picture strip of a training: what the model makes of the same inputs at 0, 10, 25, 50, 75 and 100 % of its iterations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..files.beside import written_beside
from . import loop

MOMENTS = (0, 0.1, 0.25, 0.5, 0.75, 1)
WINDOW = (-1000.0, 400.0)  # HU


class Strip:
    """Trains a model and keeps ``images()`` (tensors by name) in ``folder`` at MOMENTS of ``iterations``, and at the end."""

    def __init__(self, images: Callable[[], dict[str, torch.Tensor]], folder: Path, iterations: int | None):
        self.images, self.folder = images, folder
        self.moments = {round(part * iterations) for part in MOMENTS} if iterations else {0}

    def run(self, model: loop.Model, batches, out: Path, *, resume: bool = False, on_log=None, **how) -> int:
        """:func:`loop.run` with the same arguments, and the images taken on the way."""

        def log(done, figures):
            self._take(done)
            if on_log:
                on_log(done, figures)

        if not resume:
            loop.refuse_to_overwrite(out)
            for old in self.folder.glob("*.safetensors"):  # of a training that left no checkpoint
                old.unlink()
            self._take(0)
        done = loop.run(model, batches, out, resume=resume, on_log=log, **how)
        self._take(done, last=True)
        return done

    def taken(self) -> dict[int, dict[str, torch.Tensor]]:
        """What was kept, by iteration."""
        return {int(path.stem): load_file(path) for path in sorted(self.folder.glob("*.safetensors"))}

    def _take(self, done: int, last: bool = False):
        path = self.folder / f"{done:07d}.safetensors"
        if (done in self.moments or last) and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with written_beside(path) as part:
                save_file({name: image.contiguous() for name, image in self.images().items()}, part)


def planes_of(hu: torch.Tensor) -> torch.Tensor:
    """Middle axial, coronal and sagittal plane of a cube (k, j, i) in HU, one below the other (3 size, size); the head is up."""
    k, j, i = (n // 2 for n in hu.shape)
    return torch.cat([hu[k], hu[:, j].flip(0), hu[:, :, i].flip(0)])


def draw_planes(strip: Strip, path: Path) -> None:
    """A picture of the ``planes`` that ``strip`` kept, side by side."""
    from PIL import Image

    low, high = WINDOW
    shown = np.concatenate([images["planes"].numpy() for images in strip.taken().values()], axis=1)
    Image.fromarray(((np.clip(shown, low, high) - low) / (high - low) * 255).astype(np.uint8)).save(path)
