"""Organ-wise style in a child process: it takes two scans and two segmentations and may optimise for minutes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from ..files import read_volume, write_segmentation, write_volume
from ..volume import LabelMap, Volume
from .command_job import CommandJob


class StyleJob(CommandJob):
    """One run of ``ctsynthesis style``; poll it until it returns a Volume.

    Parameters
    ----------
    style : Volume
        The reference CT.
    style_labelmap, labelmap : LabelMap or None
        Its segmentation, and the content's.
    content : Volume or None
        The CT to restyle; None to generate one from ``labelmap``.
    structures : str
        Names separated by commas; empty for all.
    strength : float
    refine, seed : int
    called : dict, optional
        What the user calls ``style`` and ``content``.
    """

    def __init__(self, style: Volume, labelmap: LabelMap | None, *, content: Volume | None = None, style_labelmap: LabelMap | None = None,
                 structures: str = "", strength: float = 1.0, refine: int = 0, seed: int = 0, called: dict[str, str] | None = None,
                 python: str | None = None):  # fmt: skip
        self._numbers = ["--strength", strength, "--refine", refine, "--seed", seed]
        self._numbers += [f"--structures={structures}"] if structures.strip() else []
        self._scans = ("--style", style, "style.nrrd"), ("--content", content, "content.nrrd")
        self._drawn = ("--style-segmentation", style_labelmap, "style.seg.nrrd"), ("--segmentation", labelmap, "anatomy.seg.nrrd")
        self._style_regions = _regions_of(style) if style_labelmap is None else None
        words = {f"{role}.nrrd": name for role, name in (called or {}).items()}
        words |= {name: drawn.metadata["Name"] for _flag, drawn, name in self._drawn if drawn is not None and "Name" in drawn.metadata}
        super().__init__("style", "Styling", python, words)

    def _arguments(self):
        arguments = [*self._numbers, "-o", "result.nrrd"]
        for write, given in ((write_volume, self._scans), (write_segmentation, self._drawn)):
            for flag, data, name in given:
                if data is not None:
                    write(data, self._path(name))
                    arguments += [flag, name]
        if self._style_regions:
            arguments += ["--style-regions", self._style_regions]
        return arguments

    def _read(self) -> Volume:
        return read_volume(self._path("result.nrrd"))


MOST_REGIONS = 4
_regions: tempfile.TemporaryDirectory | None = None  # of this process: tissue regions of the last few references, which take long to find


def _regions_of(style: Volume) -> Path:
    """Where the run that first uses this scan leaves its tissue regions for the next one; by content."""
    global _regions
    _regions = _regions or tempfile.TemporaryDirectory(prefix="CTSynthesis-regions-")
    digest = hashlib.sha256(style.geometry.ijk_to_ras.tobytes())
    digest.update(np.ascontiguousarray(style.array).data)
    kept = sorted(Path(_regions.name).glob("*.seg.nrrd"), key=lambda path: path.stat().st_mtime)
    path = Path(_regions.name) / f"{digest.hexdigest()[:32]}.seg.nrrd"
    for old in kept[: -MOST_REGIONS + 1]:
        if old != path:
            old.unlink(missing_ok=True)
    return path
