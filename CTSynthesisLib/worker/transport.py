"""How messages and arrays reach a worker and come back; here through pipes and memory-mapped files on the same machine."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import SynthesisFailed
from . import protocol

ENGINE = "CTSynthesisLib.synthesis.generate:generate"
IDLE = 15 * 60.0  # s without a job after which a child ends by itself


class Transport(Protocol):
    """Carries one-line messages and arrays: :class:`PipeTransport` on this computer, ``SocketTransport`` to another one.

    ``where`` says in words where the worker runs.
    """

    where: str

    def open(self) -> None:
        """Reach a worker; returns at once."""

    def send(self, message: dict) -> None:
        """Hand over a message; SynthesisFailed if the worker is gone."""

    def receive(self) -> dict | None:
        """The next message if one has come, without waiting; None if not; ConnectionError when the worker is gone."""

    def put(self, name: str, array: np.ndarray) -> None:
        """Make an array available to the other side."""

    def take(self, name: str) -> np.ndarray:
        """Fetch an array that the other side has put, and drop it there."""

    def drop(self, name: str) -> None:
        """Forget an array that this side has put."""

    def close(self) -> None:
        """End the worker and leave nothing behind. May be called twice; ``open`` starts anew."""


class PipeTransport:
    """A child process on this machine: JSON lines through its standard input and output, arrays as .npy files in one folder.

    The folder is made when the child starts and removed when it ends, whichever side ends first.

    Parameters
    ----------
    engine : str
        ``module:function`` that the child calls to generate.
    python : str, optional
        Python to run; by default the one that fits this process, see :func:`python_executable`.
    idle : float
        Seconds without a job after which the child ends.
    """

    where = "this computer"

    def __init__(self, engine: str = ENGINE, python: str | None = None, idle: float = IDLE):
        self.engine, self.python, self.idle = engine, python, idle
        self.process = self.folder = None
        self.log: deque[str] = deque(maxlen=200)  # the child's standard error, for the details of a failure
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._arrays: dict[str, np.ndarray] = {}  # that have come with the messages
        self._cleanup = None

    def open(self):
        if self.process is not None:
            return
        self.folder = Path(tempfile.mkdtemp(prefix="CTSynthesis-"))
        library = str(Path(__file__).resolve().parents[2])
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
        command = [self.python or python_executable(), "-m", "CTSynthesisLib.worker", "--folder", str(self.folder), "--engine", self.engine]
        command += ["--idle", str(self.idle)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console window
            )
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise SynthesisFailed(
                f"The worker process could not be started with {command[0]} ({error}); reinstall the extension."
            ) from error
        self._messages, self._arrays, self.log = queue.SimpleQueue(), {}, deque(maxlen=200)
        arguments = (self.process.stdout, self._messages, self._arrays, self.folder)
        threading.Thread(target=_read_messages, args=arguments, daemon=True).start()
        threading.Thread(target=_read_log, args=(self.process.stderr, self.log), daemon=True).start()
        # also when this object is forgotten, and when Python ends
        self._cleanup = weakref.finalize(self, _end, self.process, self.folder)

    def send(self, message):
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError, AttributeError) as error:
            raise ConnectionError(self._epitaph()) from error

    def receive(self):
        with contextlib.suppress(queue.Empty):
            message = self._messages.get_nowait()
            if message is None:  # end of its output
                raise ConnectionError(self._epitaph())
            return message
        return None

    def put(self, name, array):
        if not self.folder.exists():  # a child that ends takes it along
            raise ConnectionError(self._epitaph())
        np.save(self.folder / f"{name}.npy", array)

    def take(self, name):
        return self._arrays.pop(name)

    def drop(self, name):
        self._arrays.pop(name, None)
        with contextlib.suppress(OSError):  # Windows: still mapped by the child, which is about to let go
            (self.folder / f"{name}.npy").unlink(missing_ok=True)

    def close(self):
        if self._cleanup is not None:
            self._cleanup()
        self.process = self.folder = self._cleanup = None

    def _epitaph(self):
        with contextlib.suppress(subprocess.TimeoutExpired, AttributeError):
            self.process.wait(timeout=2)
        code = self.process.returncode if self.process else "unknown"
        return (
            f"The worker process ended unexpectedly (exit code {code}), most likely because memory ran out; try a smaller volume, or close"
            " other programs."
        )


def python_executable() -> str:
    """The Python that can run the worker.

    In 3D Slicer ``sys.executable`` may be the application; the Python that belongs to it is PythonSlicer, in the same folder.
    """
    executable = Path(sys.executable)
    beside = executable.with_name("PythonSlicer" + (".exe" if os.name == "nt" else ""))
    if beside.exists():
        return str(beside)
    if executable.stem.lower().startswith("python"):
        return str(executable)
    if found := shutil.which("PythonSlicer"):
        return found
    raise SynthesisFailed(f"No PythonSlicer was found beside {executable}, so the worker cannot start; reinstall 3D Slicer.")


def _read_messages(stream, messages, arrays, folder):
    """In a thread of its own, so that reading a large result holds nobody up."""
    for line in stream:
        with contextlib.suppress(json.JSONDecodeError, OSError):  # what a library prints is no message; a dead child takes its files along
            message = json.loads(line)
            for name in protocol.arrays_in(message):
                path = folder / f"{name}.npy"
                arrays[name] = np.load(path)
                path.unlink()
            messages.put(message)
    messages.put(None)


def _read_log(stream, log):
    for line in stream:
        log.append(line.rstrip())


def _end(process, folder):
    with contextlib.suppress(OSError, ValueError):
        process.stdin.close()  # the child ends when its input does, even behind a launcher that does not pass on signals
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
