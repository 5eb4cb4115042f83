"""The runner on Qt's event loop."""

from __future__ import annotations

import qt

from ..runner import Runner

INTERVAL_MS = 20


def timed_runner() -> Runner:
    """A runner that is polled by a timer while it has something to do."""
    timer = qt.QTimer()
    timer.setInterval(INTERVAL_MS)
    runner = Runner(timer.start, timer.stop)
    runner.timer = timer  # kept as long as the runner
    timer.connect("timeout()", runner.poll)
    return runner
