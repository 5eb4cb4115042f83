"""Ctrl-C (SIGINT) and the polite request to end (SIGTERM) while a training runs: it stops where its state can be kept."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEARD = b"\nnote: Stopping after this iteration and keeping its state; once more stops at once and loses it.\n"


@contextlib.contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """In this block both signals go to ``handler(number, frame)``; outside the main thread, which alone hears signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, signal.SIG_DFL if was is None else was)  # None: another program's, which Python cannot name


@contextlib.contextmanager
def postponed() -> Iterator[list[int]]:
    """Yield a list to look into between iterations: empty, until it holds the number of the signal that came. The second raises at once.

    Raises
    ------
    Interrupted
        At the second signal.
    """
    came: list[int] = []

    def hear(number, frame):
        if came:
            raise Interrupted("Interrupted at once; what was trained since the last checkpoint is lost.", number)
        came.append(number)
        with contextlib.suppress(OSError):
            os.write(2, HEARD)  # not print, which the signal may have interrupted

    with heard_by(hear):
        yield came


def at_once(number: int, frame: FrameType | None) -> None:
    """A handler for where there is nothing to keep: either signal ends what runs."""
    raise Interrupted("Interrupted.", number)
