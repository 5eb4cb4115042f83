"""The side that asks: starts the worker when it is first needed, keeps it warm, and turns its messages into results and errors."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import SynthesisFailed
from ..synthesis.generate import Cancelled, Result
from ..synthesis.request import Request
from . import protocol
from .transport import PipeTransport, Transport

CANCELLED = "Generating was cancelled; nothing was added to the scene."
GRACE = 0.7  # s between asking a worker to stop and ending it


@dataclass(frozen=True)
class Progress:
    """How far the job is: ``fraction`` from 0 to 1 and the ``stage`` in words."""

    fraction: float
    stage: str


@dataclass(frozen=True)
class PreviewReady:
    """A preview can be edited. ``estimate`` is what to show of slices not rendered yet, int16 (k, j, i); None if it was not asked for.

    ``axis`` is the array axis along which slices are counted.
    """

    estimate: np.ndarray | None
    axis: int
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Slice:
    """HU of a part of a slice, ``array`` (k, j, i), that belongs at voxel ``start``; ``edits`` counts the edits that it contains."""

    start: tuple[int, int, int]
    array: np.ndarray
    edits: int


@dataclass(frozen=True)
class Similarity:
    """Of a volume to the training scan nearest to it (1 is the same), and the ``limit`` from which on it counts as a copy."""

    value: float
    limit: float


class Worker:
    """Computes in another process, one job at a time.

    No thread of the caller's ever runs anything of his: :meth:`poll` is called on the caller's thread, as often as he likes.

    Attributes
    ----------
    device : str
        What the worker computes on, in words; empty until it has told.
    report : tuple of Row or None
        What was measured in the last result; it comes some moments after it, see :meth:`poll`.
    slices : list of Slice
        What has been rendered of the preview since the caller emptied the list.

    Examples
    --------
    >>> with Worker() as worker:                                     # doctest: +SKIP
    ...     result = worker.generate(labelmap, Request(seed=7))
    """

    def __init__(self, transport: Transport | None = None):
        self.transport = transport or PipeTransport()
        self.device, self.report, self.slices = "", None, []
        self._job = 0
        self._busy = self._open = self._greeted = False
        self._preview = self._reporting = None  # the jobs of which slices and a report are expected
        self._deadline = None
        self._edits = 0
        self._handed: list[str] = []  # arrays of the running job

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def running(self) -> bool:
        """Whether there is a child, busy or warm."""
        return self._open

    @property
    def previewing(self) -> bool:
        return self._preview is not None

    @property
    def reporting(self) -> bool:
        """Whether the report of the last result is still to come."""
        return self._reporting is not None

    def start(self):
        """Start the child if it does not run; returns at once."""
        if not self._open:
            self.transport.open()
            self._open, self._greeted = True, False

    def submit(self, labelmap, request: Request | None = None, names=None, reference=None):
        """Ask for a volume; the answer comes through :meth:`poll`."""
        self._submit("generate", lambda: self._packed(labelmap, request, names, reference))
        self.report, self._reporting = None, self._job

    def submit_preview(self, labelmap, request: Request | None = None, names=None, reference=None, *, look=0, shown=False):
        """Ask for a preview; it is there when :meth:`poll` returns :class:`PreviewReady`. An earlier one ends.

        ``look`` is the slice that is looked at. If ``shown``, a complete volume of this label map and request is there already.
        """
        self._submit("preview", lambda: {**self._packed(labelmap, request, names, reference), "look": int(look), "shown": shown})
        self._preview, self._edits, self.slices = self._job, 0, []

    def submit_audit(self, volume, model: str):
        """Ask how similar a volume is to the scans that a model was trained on; :meth:`poll` returns a :class:`Similarity`."""

        def packed():
            name = self._hand_over("volume", volume.array)
            return {"volume": protocol.pack_volume(volume, name), "model": model}

        self._submit("audit", packed)

    def edit(self, look: int, start=None, labels=None) -> int:
        """Tell the preview that slice ``look`` is looked at, and of ``labels`` (k, j, i) painted at voxel ``start``; returns its number.

        Nothing happens without a preview. What has changed comes as :attr:`slices`, that slice first.
        """
        if self._preview is None:
            return self._edits
        self._edits += 1
        name = None
        try:
            if labels is not None:
                self.transport.put(name := f"edit-{self._edits}", np.ascontiguousarray(labels))
            start = None if start is None else [int(n) for n in start]
            self.transport.send({"say": "edit", "id": self._preview, "start": start, "array": name, "look": int(look)})
        except (ConnectionError, OSError):
            self.close()  # it has died or was idle for long; whoever wants a preview begins a new one
        return self._edits

    def forget_preview(self):
        """End the preview; the worker stays warm."""
        if self._preview is not None:
            with contextlib.suppress(ConnectionError):
                self.transport.send({"say": "forget", "id": self._preview})
            self._preview, self.slices = None, []

    def _submit(self, say, packed):
        if self._busy:
            raise SynthesisFailed("A volume is already being generated; wait for it or cancel it first.")
        for attempt in ("warm", "fresh"):  # a warm child may have died since the last job
            self.start()
            self._job += 1
            try:
                self.transport.send({"say": say, "id": self._job, **packed()})
                break
            except ConnectionError as error:
                self.close()
                if attempt == "fresh":
                    raise SynthesisFailed(str(error)) from error
            except OSError as error:
                self.close()
                raise SynthesisFailed(f"The temporary folder cannot be written ({error.strerror}); free some disk space.") from error
        self._busy, self._deadline = True, None

    def _packed(self, labelmap, request, names, reference):
        labels = self._hand_over("labelmap", labelmap.array)
        around = reference and protocol.pack_volume(reference, self._hand_over("reference", reference.array))
        return {
            "request": asdict(request or Request()), "labelmap": protocol.pack_labelmap(labelmap, labels), "names": names,
            "reference": around,
        }  # fmt: skip

    def _hand_over(self, name, array) -> str:
        self.transport.put(f"{name}-{self._job}", array)
        self._handed.append(f"{name}-{self._job}")
        return self._handed[-1]

    def poll(self) -> Progress | Result | PreviewReady | Similarity | None:
        """The newest progress, or what the job has come to, or None if nothing has happened since the last call.

        It also collects the :attr:`report` and the :attr:`slices` of a preview, so it is to be called while one of them is expected.

        Raises
        ------
        Cancelled
            After :meth:`cancel`, once the worker has stopped or has been ended.
        UnusableInput, SynthesisFailed
            What a direct call would raise, or that the worker is gone. Afterwards the next job can be submitted.
        """
        latest = None
        while self._open:
            try:
                message = self.transport.receive()
                if message is None:
                    break
                if not self._greeted:
                    protocol.check_hello(message)
                    self._greeted = True
                    continue
                news = self._understand(message)
            except ConnectionError as error:
                busy, cancelled = self._busy, self._deadline is not None
                self.close()
                if not busy:
                    return None  # it was idle
                raise (Cancelled(CANCELLED) if cancelled else SynthesisFailed(str(error))) from error
            except SynthesisFailed:
                if not self._greeted:
                    self.close()
                raise
            latest = news or latest
            if news is not None and not self._busy:
                break  # what comes after the answer to a job is for the next call
        if self._busy and self._deadline is not None and time.monotonic() > self._deadline:
            self.close()  # it did not stop between two blocks in time; the next job starts a fresh one
            raise Cancelled(CANCELLED)
        return latest

    def _understand(self, message):
        said, number = message["say"], message.get("id")
        if said == "device":
            self.device = message["name"]
        elif said == "slice":
            array = self.transport.take(message["array"])
            if number == self._preview:
                self.slices.append(Slice(tuple(message["start"]), array, message["edits"]))
        elif said == "report" and number == self._reporting:
            self.report, self._reporting = protocol.unpack_rows(message["rows"]), None
        elif said == "error" and number == self._preview and not (self._busy and number == self._job):  # of an edit, not of a job
            self._preview = None
            if not self._busy:
                raise self._failure(message)
        elif self._busy and number == self._job:
            return Progress(message["fraction"], message["stage"]) if said == "progress" else self._answer(message)
        return None

    def _answer(self, message):
        """What a job has come to. After a cancel nothing but that is of interest."""
        said, cancelled = message["say"], self._deadline is not None
        self._busy = False
        try:
            if not cancelled and said == "result":
                return protocol.unpack_result(message, self.transport.take(message["volume"]["array"]))
            if not cancelled and said == "previewing":
                estimate = message["array"] and self.transport.take(message["array"])
                return PreviewReady(estimate, message["axis"], tuple(message["assumptions"]))
            if not cancelled and said == "similarity":
                return Similarity(message["value"], message["limit"])
        finally:
            for name in self._handed:
                self.transport.drop(name)
            self._handed.clear()
        if self._preview == self._job:
            self._preview = None
        self._reporting = None
        if said == "result":  # it was complete when the cancel came
            self.transport.drop(message["volume"]["array"])
        raise Cancelled(CANCELLED) if cancelled else self._failure(message)

    @staticmethod
    def _failure(message):
        error = protocol.ERRORS[message["kind"]](message["text"])
        error.add_note(message["details"])
        return error

    def cancel(self):
        """Ask the running job to stop; :meth:`poll` raises Cancelled when it has, at the latest after a grace of 0.8 s."""
        if self._busy and self._deadline is None:
            self._deadline = time.monotonic() + GRACE
            try:
                self.transport.send({"say": "cancel", "id": self._job})
            except ConnectionError:
                self._deadline = 0.0

    def generate(self, labelmap, request=None, names=None, reference=None, progress=None, cancelled=None) -> Result:
        """Generate and wait. The arguments are those of :func:`synthesis.generate.generate`, and so are the errors."""
        self.submit(labelmap, request, names, reference)
        while True:
            if isinstance(news := self.poll(), Result):
                return news
            if news is not None and progress is not None:
                progress(news.fraction, news.stage)
            if cancelled is not None and cancelled():
                self.cancel()
            if news is None:
                time.sleep(0.01)

    def close(self):
        """End the child and remove its files; a later job starts a new one."""
        self._busy = self._open = self._greeted = False
        self._deadline = self._preview = self._reporting = None
        self._handed.clear()
        self.slices = []
        self.transport.close()
