"""Nodules put in or taken out in a child process of its own; see :mod:`command_job`."""

from __future__ import annotations

from ..files import read_segmentation, read_volume, write_segmentation, write_volume
from ..volume import LabelMap, Volume
from .command_job import CommandJob


class NoduleJob(CommandJob):
    """One run; poll it until it returns ``(Volume, LabelMap)``: the CT, and the nodules (or what was erased) as segments.

    Parameters
    ----------
    what : str
        ``inject`` or ``erase``.
    volume : Volume
        The CT.
    at : list of (i, j, k)
        Voxels; or ``mask``, or ``random`` places.
    mask : LabelMap or None
    random : int
    diameter : float or None
        Millimetres; None for the command's default.
    kind, edge : str
    seed : int
    anywhere : bool
    called : str
        What the user calls the CT.
    """

    def __init__(self, what: str, volume: Volume, *, at=(), mask: LabelMap | None = None, random: int = 0, diameter: float | None = None,
                 kind: str = "solid", edge: str = "smooth", seed: int = 0, anywhere: bool = False, called: str = "CT",
                 python: str | None = None):  # fmt: skip
        self._volume, self._mask = volume, mask
        self._choices = [what, "--type", kind, "--edge", edge, "--seed", seed]
        self._choices += [f"--at={','.join(f'{a:.2f}' for a in place)}" for place in at]
        self._choices += ["--random", random] if random else []
        self._choices += ["--diameter", diameter] if diameter else []
        self._choices += ["--anywhere"] if anywhere else []
        words = {"ct.nrrd": called, "mask.seg.nrrd": mask.metadata.get("Name", "mask") if mask else "mask"}
        super().__init__("nodule", "Working on nodules", python, words)

    def _arguments(self) -> list:
        write_volume(self._volume, self._path("ct.nrrd"))
        arguments = [*self._choices, "ct.nrrd", "-o", "result.nrrd", "--segmentation", "result.seg.nrrd"]
        if self._mask is not None:
            write_segmentation(self._mask, self._path("mask.seg.nrrd"))
            arguments += ["--mask", "mask.seg.nrrd"]
        del self._volume, self._mask  # they may be large
        return arguments

    def _read(self):
        return read_volume(self._path("result.nrrd")), read_segmentation(self._path("result.seg.nrrd"))
