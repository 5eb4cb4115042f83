"""Volume: a whole chest from nothing, and the segmentation that it shows."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .. import scene, views
from ..errors import SynthesisFailed, UnusableInput
from ..worker.client import Progress
from ..worker.volume_job import VolumeJob
from .dependencies import ensure_torch

INTERVAL_MS = 100


class VolumeSection:
    """The widgets whose names begin with ``volume``, and the run that they start.

    Parameters
    ----------
    ui : namespace
        ``volumeSizeSpinBox`` (voxels along each side), ``volumeNodulesSpinBox``, ``volumeButton``, ``volumeProgressBar``,
        ``volumeStatusLabel``.
    parameters : callable
        Returns the panel's parameters: seed, model and device count.
    """

    def __init__(self, ui, parameters):
        self._ui, self._parameters = ui, parameters
        self._job = None
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)
        ui.volumeButton.connect("clicked(bool)", self._on_clicked)
        self.update()

    @property
    def busy(self) -> bool:
        return self._job is not None

    def update(self):
        button = self._ui.volumeButton
        button.text = _("Cancel") if self.busy else _("Make a volume")
        button.toolTip = _("Stop; the scene stays as it was") if self.busy else _("Make a chest CT with its segmentation")

    def close(self):
        """End a run; the scene stays as it was."""
        self._timer.stop()
        if self._job is not None:
            self._job.close()
        self._job = None

    def _on_clicked(self, _checked=False):
        if self.busy:
            self._ui.volumeStatusLabel.text = _("Cancelling …")
            self._job.cancel()
            return
        try:
            ensure_torch()
            ui, parameters = self._ui, self._parameters()
            self._job = VolumeJob(seed=parameters.seed, size=ui.volumeSizeSpinBox.value, nodules=ui.volumeNodulesSpinBox.value,
                                  model=parameters.model, device=parameters.device)  # fmt: skip
        except (UnusableInput, SynthesisFailed) as error:
            self._done(str(error))
            return
        self._ui.volumeProgressBar.visible = True
        self._ui.volumeProgressBar.value = 0
        self._ui.volumeStatusLabel.text = _("Starting …")
        self._timer.start()
        self.update()

    def _poll(self):
        try:
            news = self._job.poll()
        except Exception as error:  # whatever it is, the panel must be usable again
            self._done(str(error))
            return
        if isinstance(news, Progress):
            self._ui.volumeProgressBar.value = round(1000 * news.fraction)
            self._ui.volumeStatusLabel.text = f"{news.stage[:1].upper()}{news.stage[1:]} …"
        elif news is not None:
            volume, labelmap = news
            segmentation = scene.labelmap_to_segmentation(labelmap, _("Chest {seed}").format(seed=self._parameters().seed))
            node = scene.volume_node_from(volume, segmentation)
            views.show(node)
            self._done(_("“{name}” made, with its segmentation.").format(name=node.GetName()))

    def _done(self, sentence: str):
        self.close()
        self._ui.volumeProgressBar.visible = False
        self._ui.volumeStatusLabel.text = sentence
        self.update()
