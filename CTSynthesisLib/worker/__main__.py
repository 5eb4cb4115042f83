"""The child: reads requests from standard input, computes, answers on standard output.

The main thread computes, a second one listens, so that a cancel is heard and the child ends at once when the other side goes away.
"""

from __future__ import annotations

import argparse
import contextlib
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
from ..synthesis.memory import give_memory_back, prepare_process
from . import jobs, protocol
from .transport import ENGINE, IDLE

TIDY = 10.0  # s without a job after which freed memory is the user's; a job that comes sooner is quicker for it


class Child:
    """One job at a time, asked for in messages; volumes come from ``engine``. After ``idle`` seconds without a job it ends."""

    def __init__(self, engine: str, folder: Path, output, idle: float = IDLE):
        self.engine, self.folder, self.output, self.idle = engine, folder, output, idle
        self.asked: queue.SimpleQueue = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.preview = None  # and beside it: its job, the slice that is looked at, how many edits it has, whether that one was answered
        self.preview_id = self.look = self.edits = 0
        self.answered = True
        self.sent = 0  # arrays, to give each a name of its own

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
                self.asked.put(message)
        shutil.rmtree(self.folder, ignore_errors=True)  # the client removes it too; this is for a client that crashed
        os._exit(0)

    def work(self):
        self.say(**protocol.hello())
        tidy = True
        while True:
            rendering = self.preview is not None and (not self.answered or self.preview.waiting(self.look) is not None)
            try:  # edits come before rendering, so only the newest is rendered
                message = self.asked.get(timeout=0 if rendering else self.idle if tidy else min(TIDY, self.idle))
            except queue.Empty:
                if rendering:
                    message = {"say": "render", "id": self.preview_id}
                elif tidy:
                    return  # idle: all of the memory is the user's
                else:
                    give_memory_back()
                    tidy = True
                    continue
            tidy = False
            self.run(message)

    def run(self, message):
        number = message["id"]
        try:
            getattr(self, f"do_{message['say']}")(number, message)
        except Exception as error:  # the border of the process: whatever happens becomes a message
            if message["say"] in ("edit", "render"):
                self.preview = None
            if number in self.cancelled:
                self.say(say="cancelled", id=number)
            else:
                self.say(say="error", id=number, kind=_kind(error), text=_sentence(error), details=traceback.format_exc())

    def do_generate(self, number, message):
        progress = self.progress_of(number)
        progress(0.0, "starting")
        module, function = self.engine.split(":")
        engine = getattr(importlib.import_module(module), function)
        if self.engine == ENGINE:  # a stand-in of the tests needs no PyTorch
            self.say(say="device", name=jobs.device(message["request"]))
        result, labelmap = jobs.generate(engine, message, self.load, progress, lambda: number in self.cancelled)
        self.say(say="result", id=number, **protocol.pack_result(result, self.put(result.volume.array)))
        if self.asked.empty():  # whoever is waiting for something else comes first
            self.say(say="report", id=number, rows=jobs.report(result, labelmap))

    def do_preview(self, number, message):
        self.preview = None  # its memory first
        progress = self.progress_of(number)
        progress(0.0, "starting the preview")
        self.preview = jobs.preview(message, self.load, progress, lambda: number in self.cancelled)
        self.preview_id, self.edits, self.look, self.answered = number, 0, message["look"], False
        base = None if message["shown"] else self.put(self.preview.estimate())
        self.say(say="device", name=jobs.device(message["request"]))
        self.say(say="previewing", id=number, array=base, axis=self.preview.axis, assumptions=list(self.preview.assumptions))

    def do_edit(self, number, message):
        if self.preview is None or number != self.preview_id:
            return
        if message["array"]:
            self.preview.edit(message["start"], self.load(message))
            (self.folder / f"{message['array']}.npy").unlink()
        self.edits += 1
        self.look, self.answered = message["look"], False

    def do_render(self, number, message):
        index = self.preview.waiting(self.look) if self.answered else self.look
        self.answered = True
        if (rendered := self.preview.render(index)) is not None:
            start, hu = rendered
            self.say(say="slice", id=number, start=list(start), array=self.put(hu), edits=self.edits)

    def do_forget(self, number, message):
        if number == self.preview_id:
            self.preview = None

    def do_audit(self, number, message):
        self.progress_of(number)(0.0, "comparing with the training scans")
        self.say(say="similarity", id=number, **jobs.audit(message, self.load))

    def progress_of(self, number):
        def progress(fraction, stage):
            self.say(say="progress", id=number, fraction=round(float(fraction), 4), stage=str(stage))
            if number in self.cancelled:
                raise Cancelled("Cancelled before the engine noticed.")

        return progress

    def load(self, packed):
        return np.load(self.folder / f"{packed['array']}.npy", mmap_mode="r")

    def put(self, array) -> str:
        self.sent += 1
        np.save(self.folder / f"answer-{self.sent}.npy", array)
        return f"answer-{self.sent}"


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
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds without a job after which it ends")
    options = parser.parse_args(arguments)
    # What libraries print must not mix with the messages: they get standard error in place of standard output.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    prepare_process()
    child = Child(options.engine, options.folder, output, options.idle)
    threading.Thread(target=child.listen, args=(sys.stdin,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more
        child.work()
    shutil.rmtree(options.folder, ignore_errors=True)
    os._exit(0)  # the listening thread still waits for a line


if __name__ == "__main__":
    main()
