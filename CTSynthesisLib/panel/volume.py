"""Volume: a whole chest from nothing, and the segmentation that it shows."""

from __future__ import annotations

from slicer.i18n import tr as _

from .. import scene, views
from ..worker.volume_job import VolumeJob
from .job_section import JobSection


class VolumeSection(JobSection):
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
        super().__init__(ui.volumeProgressBar, ui.volumeStatusLabel)
        self._ui, self._parameters = ui, parameters
        ui.volumeButton.connect("clicked(bool)", lambda _checked=False: self._press())
        self.update()

    def update(self, *_ignored):
        button = self._ui.volumeButton
        button.text = _("Cancel") if self.busy else _("Make a volume")
        button.toolTip = _("Stop; the scene stays as it was") if self.busy else _("Make a chest CT with its segmentation")

    def _begin(self):
        ui, parameters = self._ui, self._parameters()
        return VolumeJob(seed=parameters.seed, size=ui.volumeSizeSpinBox.value, nodules=ui.volumeNodulesSpinBox.value,
                         model=parameters.model, device=parameters.device)  # fmt: skip

    def _take(self, result) -> str:
        volume, labelmap = result
        segmentation = scene.labelmap_to_segmentation(labelmap, _("Chest {seed}").format(seed=self._parameters().seed))
        node = scene.volume_node_from(volume, segmentation)
        views.show(node)
        return _("“{name}” made, with its segmentation.").format(name=node.GetName())
