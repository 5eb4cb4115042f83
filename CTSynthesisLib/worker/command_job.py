"""A command of ``ctsynthesis`` in a child process of its own: files in one temporary folder, the command on them, the result read back.

For what takes several scans or minutes, and so neither fits the messages of the warm worker nor keeps it.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path

from ..errors import SynthesisFailed, UnusableInput
from ..synthesis.generate import Cancelled
from .client import Progress
from .transport import python_executable


class CommandJob(ABC):
    """One run; poll it until it returns the result.

    A subclass says in :meth:`_arguments` what the command is given, having written its input into the folder, and in :meth:`_read` what
    has come of it. The command runs in that folder, so that neither its sentences nor the provenance that it writes name a temporary path.

    Parameters
    ----------
    command : str
        Of the command line, for example ``style``.
    doing : str
        What it does, for the sentence after a cancel: ``Styling``.
    called : dict, optional
        What the user calls the content of each file, by the file's name: sentences about it say so.
    """

    def __init__(self, command: str, doing: str, python: str | None = None, called: dict[str, str] | None = None):
        self._called = called or {}
        self._doing, self._folder = doing, Path(tempfile.mkdtemp(prefix=f"CTSynthesis-{command}-"))
        try:
            arguments = self._arguments()
            library = str(Path(__file__).resolve().parents[2])
            path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
            environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
            self._process = subprocess.Popen(
                [python or python_executable(), "-m", "CTSynthesisLib", command, *map(str, arguments), "--tell-progress"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                env=environment, cwd=self._folder, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.notes: list[str] = []
        self._lines: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stderr, self._lines), daemon=True).start()
        self._last, self._cancelled = "", False
        self._cleanup = weakref.finalize(self, _end, self._process, self._folder)

    def poll(self):
        """What has happened since the last call: the newest Progress, the result, or None.

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
                self.notes.append(self._in_users_words(line.removeprefix("note: ")))
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

    @abstractmethod
    def _arguments(self) -> list:
        """What the command is given."""

    @abstractmethod
    def _read(self):
        """What has come of it."""

    def _finish(self):
        code = self._process.wait()
        try:
            if self._cancelled:
                raise Cancelled(f"{self._doing} was cancelled.")
            if code:
                sentence = self._last.removeprefix("ctsynthesis: ") or f"The child process ended unexpectedly (exit code {code})."
                raise (UnusableInput if code == 2 else SynthesisFailed)(self._in_users_words(sentence))
            return self._read()
        finally:
            self.close()

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _in_users_words(self, sentence: str) -> str:
        for name, called in self._called.items():
            sentence = re.sub(rf"['“]?(?<![\w.]){re.escape(name)}(?!\w)['”]?", lambda _, called=called: f"“{called}”", sentence)
        return sentence


def _read(stream, lines):
    for line in stream:
        lines.put(line.rstrip())
    lines.put(None)


def _end(process, folder):
    if process.poll() is None:
        process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
