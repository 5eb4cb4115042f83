"""What runs beside an event loop: asked a few dozen times a second, it asks the worker what has come, and hands it on. No Qt."""

from __future__ import annotations

import logging

from . import views
from .history import History
from .live import LivePreview
from .session import Generated, Session
from .worker import Cancelled, PreviewReady, Progress, Similarity

GENERATE, PREVIEW, AUDIT = "generate", "preview", "audit"


class Listener:
    """Who is told what a runner is at; here a script that does not wait.

    Parameters
    ----------
    progress : callable, optional
        ``progress(fraction, stage)``.
    completed : callable, optional
        ``completed(volume_node, None)``, or ``completed(None, error)``.
    """

    def __init__(self, progress=None, completed=None):
        self._progress, self._completed = progress, completed

    def on_progress(self, kind, fraction, stage):
        if self._progress:
            self._progress(fraction, stage)

    def on_generated(self, volume_node):
        if self._completed:
            self._completed(volume_node, None)

    def on_failed(self, kind, error):
        if self._completed:
            self._completed(None, error)

    def on_report(self, rows):
        """What was measured in the last result has come."""

    def on_preview(self):
        """A slice of the preview was updated."""

    def on_similarity(self, similarity):
        """The similarity that was asked for has come."""

    def on_worker(self):
        """The worker has begun something or is free again."""


class Runner:
    """Generates, previews and audits without blocking.

    Parameters
    ----------
    start, stop : callable
        The event loop shall call :meth:`poll` from now on, and no longer.
    fit : bool
        Whether a new result is shown as large as fits.

    Attributes
    ----------
    kind : str or None
        What the worker is busy with.
    listener : Listener or None
    voxels_a_second : float or None
        Of the last run.
    current : bool
        Whether the segmentation is as it was when the last run began.
    """

    def __init__(self, start, stop, *, fit=True):
        self._start, self._stop, self._fit = start, stop, fit
        self._session = Session()
        self.preview, self.history = LivePreview(self._session), History()
        self.kind = self.listener = self.result = self.voxels_a_second = None
        self._step = self._queued = None
        self._reporting = self.current = False

    @property
    def session(self):
        return self._session

    @session.setter
    def session(self, session):
        self._session.close()
        self._session, self.preview = session, LivePreview(session)

    def generate(self, segmentation_node, request, output=None, names=None):
        """Start a run; a preview that is only just starting gives way to it."""
        if self.kind == PREVIEW:
            self._queued = (segmentation_node, request, output, names)
            self._session.cancel()
            return
        self._session.begin(segmentation_node, request, output=output, names=names)
        self._step, self.current = self.history.before(output, self._shown()), True
        self._begun(GENERATE)

    def painted(self):
        """The segmentation has changed."""
        self.current = False

    def generate_and_wait(self, segmentation_node, request, output, names, progress):
        step = self.history.before(output, self._shown())
        generated = self._session.generate(segmentation_node, request, output=output, names=names, progress=progress)
        return self._finish(generated, step)

    def begin_preview(self, segmentation_node, request, names=None, like=None):
        if self.kind is None:
            self.preview.begin(segmentation_node, request, names, like)
            self._begun(PREVIEW)

    def begin_audit(self, volume_node):
        self._session.begin_audit(volume_node)
        self._begun(AUDIT)

    def cancel(self):
        """Cancel what is under way, also a run that still waits for a preview to give way."""
        self._queued = self._queued and ()
        self._session.cancel()

    def close(self):
        """End the worker and what it had begun; nothing is told any more."""
        self._stop()
        self.listener = self.kind = self._queued = None
        self.preview.end()
        self._session.close()

    def poll(self):
        """See what has come."""
        try:
            news = self._session.poll()
        except Exception as error:  # whatever it is, the panel must be usable again
            self._failed(error)
            return
        if isinstance(news, Progress):
            self._tell("on_progress", self.kind, news.fraction, news.stage)
        elif isinstance(news, Generated):
            self.kind, self._reporting = None, True
            self._tell("on_generated", self._finish(news, self._step))
        elif isinstance(news, PreviewReady):
            self.kind = None
            self.preview.take(news)
            if self.preview.node is not None:
                views.show(self.preview.node)
            self._tell("on_preview")
        elif isinstance(news, Similarity):
            self.kind = None
            self._tell("on_similarity", news)
        if self._reporting and self._session.worker.report is not None:
            self._reporting = False
            self._tell("on_report", self._session.worker.report)
        if self.preview.tick():
            self._tell("on_preview")
        expected = self.kind is not None or self.preview.active or self._session.worker.reporting
        if not expected:
            self._stop()
            self._tell("on_worker")

    def _begun(self, kind):
        self.kind = kind
        self._start()
        self._tell("on_worker")

    def _failed(self, error):
        kind, self.kind = self.kind, None
        if not isinstance(error, Cancelled):
            logging.error("CT Synthesis", exc_info=error)
        if kind in (PREVIEW, None):
            self.preview.end()
        if kind == PREVIEW and self._queued is not None:
            queued, self._queued, kind = self._queued, None, GENERATE
            try:
                if queued:  # else it was cancelled meanwhile
                    self.generate(*queued)
                    return
            except Exception as failure:
                error = failure
        if not self.preview.active:
            self._stop()
        self._tell("on_failed", kind, error)
        self._tell("on_worker")

    def _finish(self, generated, step):
        self.result = generated.result
        if generated.result.seconds > 1:
            self.voxels_a_second = generated.result.volume.array.size / generated.result.seconds
        self.history.after(step, generated.node)
        views.show(generated.node, fit=self._fit)
        return generated.node

    def _shown(self):
        node = views.shown_volume()
        return None if node is self.preview.node else node

    def _tell(self, what, *arguments):
        if self.listener is not None:
            getattr(self.listener, what)(*arguments)


def details(error) -> str:
    """What the log says of an error, for those who want to report it."""
    return "\n".join(getattr(error, "__notes__", []))
