"""Style: a CT in the look of another scan, structure by structure. Generated from the segmentation, or an existing CT restyled."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .. import scene, views
from ..errors import SynthesisFailed, UnusableInput
from ..volume import Volume
from ..worker.client import Progress
from ..worker.style_job import StyleJob
from .dependencies import ensure_torch

INTERVAL_MS = 100


class StyleSection:
    """The widgets whose names begin with ``style``, and the run that they start.

    Parameters
    ----------
    ui : namespace
        ``styleSelector`` (the reference CT), ``styleSegmentationSelector`` (its segments, or none), ``styleContentSelector`` (a CT to
        restyle, or none: one is generated), ``styleStructuresEdit``, ``styleStrengthSlider`` (0-100), ``styleRefineSpinBox``,
        ``styleButton``, ``styleProgressBar``, ``styleStatusLabel``.
    segmentation : callable
        Returns the panel's segmentation node, or None.
    seed : callable
        Returns the panel's seed.
    """

    def __init__(self, ui, segmentation, seed):
        self._ui, self._segmentation, self._seed = ui, segmentation, seed
        self._job = None
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)
        for selector in (ui.styleSelector, ui.styleContentSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        ui.styleButton.connect("clicked(bool)", self._on_clicked)
        ui.styleStrengthSlider.connect("valueChanged(int)", self._show_strength)
        self._show_strength()
        self.update()

    @property
    def busy(self) -> bool:
        return self._job is not None

    def update(self, *_ignored):
        """Enable the button, or disable it and say in its tooltip what is missing; to be called when the segmentation changes."""
        problem = self._problem()
        button = self._ui.styleButton
        button.enabled = self.busy or not problem
        button.text = _("Cancel") if self.busy else _("Apply style")
        button.toolTip = _("Stop; the scene stays as it was") if self.busy else problem or _("Make a CT with the look of the reference")

    def close(self):
        """End a run; the scene stays as it was."""
        self._timer.stop()
        if self._job is not None:
            self._job.close()
        self._job = None

    def _problem(self) -> str:
        if self._ui.styleSelector.currentNode() is None:
            return _("Select a CT to take the style from")
        if self._segmentation() is None and self._ui.styleContentSelector.currentNode() is None:
            return _("Select a segmentation to generate from, or a CT to restyle")
        return ""

    def _on_clicked(self, _checked=False):
        if self.busy:
            self._ui.styleStatusLabel.text = _("Cancelling …")
            self._job.cancel()
            return
        try:
            ensure_torch()
            self._start()
        except (UnusableInput, SynthesisFailed) as error:
            self._done(str(error))

    def _start(self):
        ui, node = self._ui, self._segmentation()
        content, drawn = ui.styleContentSelector.currentNode(), ui.styleSegmentationSelector.currentNode()
        self._job = StyleJob(
            scene.volume_in_world(ui.styleSelector.currentNode()),
            scene.labelmap_from_segmentation(node) if node is not None else None,
            content=scene.volume_in_world(content) if content is not None else None,
            style_labelmap=scene.labelmap_from_segmentation(drawn) if drawn is not None else None,
            structures=ui.styleStructuresEdit.text,
            strength=ui.styleStrengthSlider.value / 100,
            refine=ui.styleRefineSpinBox.value,
            seed=self._seed(),
        )
        ui.styleProgressBar.visible = True
        ui.styleProgressBar.value = 0
        ui.styleStatusLabel.text = _("Styling …")
        self._timer.start()
        self.update()

    def _poll(self):
        try:
            news = self._job.poll()
        except Exception as error:  # whatever it is, the panel must be usable again
            self._done(str(error))
            return
        if isinstance(news, Progress):
            self._ui.styleProgressBar.value = round(1000 * news.fraction)
            self._ui.styleStatusLabel.text = f"{news.stage[:1].upper()}{news.stage[1:]} …"
        elif isinstance(news, Volume):
            node = scene.volume_node_from(news, self._segmentation())
            views.show(node)
            self._done("\n".join([_("“{name}” made.").format(name=node.GetName()), *self._job.notes]))

    def _done(self, sentence: str):
        self.close()
        self._ui.styleProgressBar.visible = False
        self._ui.styleStatusLabel.text = sentence
        self.update()

    def _show_strength(self, *_ignored):
        self._ui.styleStrengthLabel.text = f"{self._ui.styleStrengthSlider.value} %"
