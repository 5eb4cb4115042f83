"""Generate ↔ Cancel: the button, the progress and what there is to say about the run."""

from __future__ import annotations

from slicer.i18n import tr as _

READY, RUNNING, CANCELLING = "ready", "running", "cancelling"


class GenerateSection:
    """One button that starts and cancels, a progress bar and a line of text.

    Parameters
    ----------
    button, bar, status : QPushButton, QProgressBar, QLabel
    generate, cancel : callable
        What the button does, by turns.
    """

    def __init__(self, button, bar, status, generate, cancel):
        self._button, self._bar, self._status = button, bar, status
        self._generate, self._cancel = generate, cancel
        self._problem = ""
        self.state = READY
        button.connect("clicked(bool)", self._on_clicked)

    def allow(self, problem: str):
        """Enable the button, or disable it and say in its tooltip why nothing can be generated."""
        self._problem = problem
        self._update()

    def running(self):
        self.state = RUNNING
        self.progress(0.0, _("reading the segmentation"))
        self._update()

    def progress(self, fraction, stage):
        self._bar.value = round(1000 * fraction)
        if self.state == RUNNING:
            self._status.text = f"{stage[:1].upper()}{stage[1:]} …"

    def done(self, sentence: str):
        """Back to Generate, with what has come of the run."""
        self.state = READY
        self._status.text = sentence
        self._update()

    def _on_clicked(self, _checked=False):
        if self.state == READY:
            self._generate()
        elif self.state == RUNNING:
            self.state = CANCELLING
            self._status.text = _("Cancelling …")
            self._update()
            self._cancel()

    def _update(self):
        ready = self.state == READY
        self._bar.visible = not ready
        self._button.text = _("Generate") if ready else _("Cancel")
        self._button.enabled = not self._problem if ready else self.state == RUNNING
        if ready:
            self._button.toolTip = self._problem or _("Generate a synthetic CT from the visible segments")
        else:
            self._button.toolTip = _("Stop; the scene stays as it was") if self.state == RUNNING else _("Stopping already")


def summary(result, node_name) -> str:
    """What to say about a finished run: where the volume is, how long it took, what was assumed."""
    text = _("“{name}” generated in {seconds} s on {device}.")
    lines = [text.format(name=node_name, seconds=f"{result.seconds:.1f}", device=result.device.upper())]
    if result.assumptions:
        lines.append(_("Assumed: {assumptions}").format(assumptions=" ".join(result.assumptions)))
    return "\n".join(lines)
