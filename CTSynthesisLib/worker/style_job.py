"""Organ-wise style in a child process of its own: files in one temporary folder, ``ctsynthesis style`` on them, the result read back.

Styling takes two scans and two segmentations and may optimise for minutes, so it neither fits the messages of the warm worker nor keeps it.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput
from ..files import read_volume, write_segmentation, write_volume
from ..synthesis.generate import Cancelled
from ..volume import LabelMap, Volume
from .client import Progress
from .transport import python_executable


class StyleJob:
    """One run; poll it until it returns a Volume.

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
    """

    def __init__(self, style: Volume, labelmap: LabelMap | None, *, content: Volume | None = None, style_labelmap: LabelMap | None = None,
                 structures: str = "", strength: float = 1.0, refine: int = 0, seed: int = 0, python: str | None = None):  # fmt: skip
        self._folder = Path(tempfile.mkdtemp(prefix="CTSynthesis-style-"))
        arguments = ["--strength", str(strength), "--refine", str(refine), "--seed", str(seed), "-o", self._path("result.nrrd")]
        try:
            for flag, data, name in (("--style", style, "style.nrrd"), ("--content", content, "content.nrrd")):
                if data is not None:
                    write_volume(data, self._path(name))
                    arguments += [flag, self._path(name)]
            drawn = ("--style-segmentation", style_labelmap, "style.seg.nrrd"), ("--segmentation", labelmap, "anatomy.seg.nrrd")
            for flag, data, name in drawn:
                if data is not None:
                    write_segmentation(data, self._path(name))
                    arguments += [flag, self._path(name)]
            if structures.strip():
                arguments += ["--structures", structures]
            library = str(Path(__file__).resolve().parents[2])
            path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
            environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
            self._process = subprocess.Popen(
                [python or python_executable(), "-m", "CTSynthesisLib", "style", *map(str, arguments), "--tell-progress"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                env=environment, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.notes: list[str] = []
        self._lines: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stderr, self._lines), daemon=True).start()
        self._last, self._cancelled = "", False
        self._cleanup = weakref.finalize(self, _end, self._process, self._folder)

    def poll(self) -> Progress | Volume | None:
        """What has happened since the last call: the newest progress, the result, or nothing.

        Raises
        ------
        Cancelled, UnusableInput, SynthesisFailed
            After :meth:`cancel`; and with the one sentence that the run ended with. Nothing is left behind.
        """
        latest = None
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                return self._finish()
            if line.startswith("{"):
                said = json.loads(line)
                latest = Progress(said["fraction"], said["stage"])
            elif line.startswith("note: "):
                self.notes.append(line.removeprefix("note: "))
            else:
                self._last = line
        return latest

    def cancel(self):
        """End the process; :meth:`poll` raises Cancelled next."""
        self._cancelled = True
        self._process.kill()

    def close(self):
        """End the process and remove its files; may be called twice."""
        self._cleanup()

    def _finish(self) -> Volume:
        code = self._process.wait()
        try:
            if self._cancelled:
                raise Cancelled("Styling was cancelled.")
            if code:
                sentence = self._last.removeprefix("ctsynthesis: ") or f"The style process ended unexpectedly (exit code {code})."
                raise (UnusableInput if code == 2 else SynthesisFailed)(sentence)
            return read_volume(self._path("result.nrrd"))
        finally:
            self.close()

    def _path(self, name: str) -> str:
        return str(self._folder / name)


def _read(stream, lines):
    for line in stream:
        lines.put(line.rstrip())
    lines.put(None)


def _end(process, folder):
    if process.poll() is None:
        process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
