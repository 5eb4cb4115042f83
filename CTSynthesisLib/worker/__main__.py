"""The child: reads requests from standard input, generates, answers on standard output.

The main thread computes, a second one listens, so that a cancel is heard and the child ends at once when the other side goes away.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import shutil
import sys
import threading
import traceback
from pathlib import Path

import numpy as np

from ..errors import SynthesisFailed, UnusableInput
from ..synthesis.generate import Cancelled
from ..synthesis.request import Request
from . import protocol
from .transport import ENGINE


class Child:
    """One job at a time, asked for in messages, computed by ``engine``."""

    def __init__(self, engine: str, folder: Path, output):
        self.engine, self.folder, self.output = engine, folder, output
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        self.cancelled: set[int] = set()

    def say(self, **message):
        self.output.write(json.dumps(message) + "\n")
        self.output.flush()

    def listen(self, lines):
        """Runs in its own thread until the other side is gone; then nothing is left to do, whatever the main thread is at."""
        for line in lines:
            message = json.loads(line)
            if message["say"] == "cancel":
                self.cancelled.add(message["id"])
            else:
                self.jobs.put(message)
        shutil.rmtree(self.folder, ignore_errors=True)  # the client removes it too; this is for a client that crashed
        os._exit(0)

    def work(self):
        self.say(**protocol.hello())
        while True:
            self.run(self.jobs.get())

    def run(self, job):
        number = job["id"]
        try:
            result = self.generate(job)
        except Exception as error:  # the border of the process: whatever happens becomes a message
            if number in self.cancelled:
                self.say(say="cancelled", id=number)
            else:
                self.say(say="error", id=number, kind=_kind(error), text=_sentence(error), details=traceback.format_exc())
            return
        np.save(self.folder / f"result-{number}.npy", result.volume.array)
        self.say(say="result", id=number, **protocol.pack_result(result, f"result-{number}"))

    def generate(self, job):
        number = job["id"]

        def progress(fraction, stage):
            self.say(say="progress", id=number, fraction=round(float(fraction), 4), stage=str(stage))
            if number in self.cancelled:
                raise Cancelled("Cancelled before the engine noticed.")

        progress(0.0, "starting")
        module, function = self.engine.split(":")
        engine = getattr(importlib.import_module(module), function)
        reference = job["reference"] and protocol.unpack_volume(job["reference"], self.load(job["reference"]))
        return engine(
            protocol.unpack_labelmap(job["labelmap"], self.load(job["labelmap"])),
            Request.from_json(json.dumps(job["request"])),
            names=job["names"],
            reference=reference,
            progress=progress,
            cancelled=lambda: number in self.cancelled,
        )

    def load(self, packed):
        return np.load(self.folder / f"{packed['array']}.npy", mmap_mode="r")


def _kind(error):
    return UnusableInput.__name__ if isinstance(error, UnusableInput) else SynthesisFailed.__name__


def _sentence(error):
    if isinstance(error, UnusableInput | SynthesisFailed):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "Memory ran out while generating; close other programs, or generate a smaller or coarser volume."
    if isinstance(error, ModuleNotFoundError):
        return f"The Python package '{error.name}' is missing where the worker runs; install it (in 3D Slicer: the PyTorch extension)."
    return f"The engine stopped with an unexpected error ({type(error).__name__}: {error}); please report it with the log."


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.worker", description="Generates volumes for another process.")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the arrays; removed when the other side goes away")
    parser.add_argument("--engine", default=ENGINE, help="module:function that generates (tests use a small stand-in)")
    options = parser.parse_args(arguments)
    # What libraries print must not mix with the messages: they get standard error in place of standard output.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    child = Child(options.engine, options.folder, output)
    threading.Thread(target=child.listen, args=(sys.stdin,), daemon=True).start()
    try:
        child.work()
    except BrokenPipeError:  # nobody reads any more
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
