"""A whole chest volume from nothing, and its label map, in a child process."""

from __future__ import annotations

from ..files import read_segmentation, read_volume
from ..volume import LabelMap, Volume
from .command_job import CommandJob


class VolumeJob(CommandJob):
    """One run of ``ctsynthesis volume``; poll it until it returns (Volume, LabelMap).

    Parameters
    ----------
    seed, nodules : int
    size : int
        Voxels along each side.
    model : str
        The model that renders.
    device : str
    """

    def __init__(self, *, seed: int, size: int = 224, nodules: int = 0, model: str = "default", device: str = "auto",
                 python: str | None = None):  # fmt: skip
        self._given = ["--seed", seed, "--size", size, "--nodules", nodules, f"--model={model}", "--device", device]
        super().__init__("volume", "Making a volume", python)

    def _arguments(self):
        return ["-o", "made", *self._given, "--with-segmentation"]

    def _read(self) -> tuple[Volume, LabelMap]:
        return read_volume(self._path("made/volume-0000.nrrd")), read_segmentation(self._path("made/volume-0000.seg.nrrd"))
