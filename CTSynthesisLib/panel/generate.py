"""Generate ↔ Cancel: the button, the progress and what there is to say about the run, before it and after it."""

from __future__ import annotations

import time

from slicer.i18n import tr as _

from ..synthesis.memory import available_bytes, estimated_bytes, estimated_seconds
from .wording import said

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
        self._started = 0.0
        self.state = READY
        button.connect("clicked(bool)", self._on_clicked)

    def allow(self, problem: str):
        """Enable the button, or disable it and say in its tooltip why nothing can be generated."""
        self._problem = problem
        self._update()

    def running(self):
        self.state = RUNNING
        self._started = time.monotonic()
        self.progress(0.0, _("reading the segmentation"))
        self._update()

    def progress(self, fraction, stage):
        self._bar.value = round(1000 * fraction)
        if self.state == RUNNING:
            elapsed = time.monotonic() - self._started
            left = elapsed * (1 - fraction) / fraction if fraction > 0.15 and elapsed > 2 else 0  # before that it would be a guess
            text = f"{stage[:1].upper()}{stage[1:]} …"
            self._status.text = _("{stage} about {time} left").format(stage=text, time=duration(left)) if left >= 1 else text

    def done(self, sentence: str):
        """Back to Generate, with what has come of the run."""
        self.state = READY
        self._status.text = sentence
        self._update()

    def press(self):
        """As if Generate were clicked; nothing happens while it is disabled or running."""
        if self.state == READY and not self._problem:
            self._generate()

    def cancel(self):
        """As if Cancel were clicked; nothing happens while nothing runs."""
        if self.state == RUNNING:
            self._on_clicked()

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
            self._button.toolTip = self._problem or _("Generate a synthetic CT from the visible segments (Ctrl+G)")
        else:
            self._button.toolTip = _("Stop; the scene stays as it was (Esc)") if self.state == RUNNING else _("Stopping already")


def summary(result, node_name) -> str:
    """What to say about a finished run: where the volume is, how long it took, what was assumed."""
    text = _("“{name}” generated in {seconds} s on {device}.")
    lines = [text.format(name=node_name, seconds=f"{result.seconds:.1f}", device=result.device.upper())]
    if result.assumptions:
        lines.append(_("Assumed: {assumptions}").format(assumptions=said(" ".join(result.assumptions))))
    return "\n".join(lines)


def estimate(geometry, voxels_a_second, device) -> str:
    """What a run will cost: time and memory, before it is begun; ``geometry`` is None while there are only surfaces."""
    if geometry is None:
        return _("The surfaces are turned into voxels when you generate; how many is known then.")
    k, j, i = geometry.shape
    voxels = k * j * i
    text = _("{i} × {j} × {k} voxels: about {time} and {memory} GB of memory{device}.")
    text = text.format(
        i=i,
        j=j,
        k=k,
        time=duration(estimated_seconds(voxels, voxels_a_second)),
        memory=f"{estimated_bytes(voxels) / 1e9:.1f}",
        device=_(" on {device}").format(device=device) if device else "",
    )
    free = available_bytes()
    if free is not None and estimated_bytes(voxels) > free:
        text += " " + _("Only {free} GB are free: crop the segmentation, or choose a coarser source volume.").format(
            free=f"{free / 1e9:.1f}"
        )
    return text


def duration(seconds) -> str:
    """About how long, in words."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    return _("{minutes} min").format(minutes=round(seconds / 60))
