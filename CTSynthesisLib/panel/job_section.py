"""A section of the panel that runs a job in a process of its own: progress, cancel, and usable again whatever comes of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

import qt
from slicer.i18n import tr as _

from ..errors import SynthesisFailed, UnusableInput
from ..worker import Cancelled, Progress
from .dependencies import ensure_torch
from .wording import said

INTERVAL_MS = 100


class JobSection(ABC):
    """What the sections Style, Nodule and Volume have in common.

    A subclass starts the job in :meth:`_begin`, takes what came of it into the scene in :meth:`_take`, and enables its widgets in
    :meth:`update`, which is called when a run begins and when it ends.

    Parameters
    ----------
    bar : QProgressBar
    status : QLabel
    """

    def __init__(self, bar, status):
        self._bar, self._status, self._job = bar, status, None
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)

    @property
    def busy(self) -> bool:
        return self._job is not None

    @abstractmethod
    def update(self, *_ignored):
        """Enable the widgets that can be used now."""

    def close(self):
        """End a run; the scene stays as it was."""
        self._timer.stop()
        if self._job is not None:
            self._job.close()
        self._job = None

    def forget(self):
        """The scene is about to close: a run is cancelled, and what is said of runs goes with it."""
        self._done(_("The scene was closed, so the run was cancelled.") if self.busy else "")

    @abstractmethod
    def _begin(self, *what):
        """The job, a :class:`~CTSynthesisLib.worker.command_job.CommandJob`."""

    @abstractmethod
    def _take(self, result) -> str:
        """Put the result into the scene; returns the sentence that says so."""

    def _press(self, *what):
        """A button was clicked: begin, or while a run is under way cancel it."""
        if self.busy:
            self._status.text = _("Cancelling …")
            self._job.cancel()
            return
        try:
            ensure_torch()
            self._job = self._begin(*what)
        except Exception as error:  # whatever it is, the panel must be usable again
            self._failed(error)
            return
        self._bar.visible = True
        self._bar.value = 0
        self._status.text = _("Starting …")
        self._timer.start()
        self.update()

    def _poll(self):
        try:
            news = self._job.poll()
            sentences = None if news is None or isinstance(news, Progress) else [self._take(news), *map(said, self._job.notes)]
        except Exception as error:  # whatever it is, the panel must be usable again
            self._failed(error)
            return
        if isinstance(news, Progress):
            self._bar.value = round(1000 * news.fraction)
            self._status.text = f"{news.stage[:1].upper()}{news.stage[1:]} …"
        elif sentences:
            self._done("\n".join(sentences))

    def _failed(self, error):
        if not isinstance(error, UnusableInput | SynthesisFailed | Cancelled):
            logging.error("CT Synthesis", exc_info=error)
        self._done(said(error))

    def _done(self, sentence: str):
        self.close()
        self._bar.visible = False
        self._status.text = sentence
        self.update()
