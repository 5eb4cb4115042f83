"""The side that asks: starts the worker when it is first needed, keeps it warm, and turns its messages into results and errors."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from ..errors import SynthesisFailed
from ..synthesis.generate import Cancelled, Result
from ..synthesis.request import Request
from . import protocol
from .transport import PipeTransport, Transport

GRACE = 0.8  # s between asking a worker to stop and ending it


@dataclass(frozen=True)
class Progress:
    """How far the job is: ``fraction`` from 0 to 1 and the ``stage`` in words."""

    fraction: float
    stage: str


class Worker:
    """Generates in another process, one job at a time.

    No thread of the caller's ever runs anything of his: :meth:`poll` is called on the caller's thread, as often as he likes.

    Examples
    --------
    >>> with Worker() as worker:                                     # doctest: +SKIP
    ...     result = worker.generate(labelmap, Request(seed=7))
    """

    def __init__(self, transport: Transport | None = None):
        self.transport = transport or PipeTransport()
        self._job = 0
        self._busy = self._open = self._greeted = False
        self._deadline = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def busy(self) -> bool:
        return self._busy

    def start(self):
        """Start the child if it does not run; returns at once."""
        if not self._open:
            self.transport.open()
            self._open, self._greeted = True, False

    def submit(self, labelmap, request: Request | None = None, names=None, reference=None):
        """Ask for a volume; the answer comes through :meth:`poll`."""
        if self._busy:
            raise SynthesisFailed("A volume is already being generated; wait for it or cancel it first.")
        for attempt in ("warm", "fresh"):  # a warm child may have died since the last job
            self.start()
            self._job += 1
            try:
                self._send(labelmap, request or Request(), names, reference)
                break
            except ConnectionError as error:
                self.close()
                if attempt == "fresh":
                    raise SynthesisFailed(_crash_sentence(error)) from error
            except OSError as error:
                self.close()
                raise SynthesisFailed(f"The temporary folder cannot be written ({error.strerror}); free some disk space.") from error
        self._busy, self._deadline = True, None

    def _send(self, labelmap, request, names, reference):
        labels = f"labelmap-{self._job}"
        self.transport.put(labels, labelmap.array)
        packed_reference = None
        if reference is not None:
            self.transport.put(f"reference-{self._job}", reference.array)
            packed_reference = protocol.pack_volume(reference, f"reference-{self._job}")
        self.transport.send(
            {
                "say": "generate",
                "id": self._job,
                "request": asdict(request),
                "labelmap": protocol.pack_labelmap(labelmap, labels),
                "names": names,
                "reference": packed_reference,
            }
        )

    def poll(self) -> Progress | Result | None:
        """The newest progress, or the result, or None if nothing has happened since the last call.

        Raises
        ------
        Cancelled
            After :meth:`cancel`, once the worker has stopped or has been ended.
        UnusableInput, SynthesisFailed
            What a direct call would raise, or that the worker is gone. Afterwards the next job can be submitted.
        """
        latest = None
        while self._busy:
            try:
                message = self.transport.receive()
                if message is None:
                    break
                if not self._greeted:
                    protocol.check_hello(message)
                    self._greeted = True
                elif message.get("id") == self._job:
                    latest = self._understand(message)
            except ConnectionError as error:
                cancelled = self._deadline is not None
                self.close()
                raise (Cancelled() if cancelled else SynthesisFailed(_crash_sentence(error))) from error
            except SynthesisFailed:
                if not self._greeted:
                    self.close()
                raise
        if self._busy and self._deadline is not None and time.monotonic() > self._deadline:
            self.close()  # it did not stop between two blocks in time; the next job starts a fresh one
            raise Cancelled
        return latest

    def _understand(self, message):
        said = message["say"]
        if said == "progress":
            return Progress(message["fraction"], message["stage"])
        self._busy = False
        try:
            if said == "result" and self._deadline is None:
                return protocol.unpack_result(message, self.transport.take(message["volume"]["array"]))
        finally:
            self.transport.drop()
        if said == "error" and self._deadline is None:
            error = protocol.ERRORS[message["kind"]](message["text"])
            error.add_note(message["details"])
            raise error
        raise Cancelled

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
            news = self.poll()
            if isinstance(news, Result):
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
        self._deadline = None
        self.transport.close()


def _crash_sentence(code):
    return f"The worker process ended unexpectedly (exit code {code}), most likely because memory ran out; try a smaller volume."
