"""Style: a CT in the look of another scan, structure by structure. Generated from the segmentation, or an existing CT restyled."""

from __future__ import annotations

from slicer.i18n import tr as _

from .. import scene, views
from ..worker.style_job import StyleJob
from .job_section import JobSection


class StyleSection(JobSection):
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
        super().__init__(ui.styleProgressBar, ui.styleStatusLabel)
        self._ui, self._segmentation, self._seed = ui, segmentation, seed
        for selector in (ui.styleSelector, ui.styleContentSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        ui.styleButton.connect("clicked(bool)", lambda _checked=False: self._press())
        ui.styleStrengthSlider.connect("valueChanged(int)", self._show_strength)
        self._show_strength()
        self.update()

    def update(self, *_ignored):
        """Enable the button, or disable it and say in its tooltip what is missing; to be called when the segmentation changes."""
        problem = self._problem()
        button = self._ui.styleButton
        button.enabled = self.busy or not problem
        button.text = _("Cancel") if self.busy else _("Apply style")
        button.toolTip = _("Stop; the scene stays as it was") if self.busy else problem or _("Make a CT with the look of the reference")

    def _problem(self) -> str:
        if self._ui.styleSelector.currentNode() is None:
            return _("Select a CT to take the style from")
        if self._segmentation() is None and self._ui.styleContentSelector.currentNode() is None:
            return _("Select a segmentation to generate from, or a CT to restyle")
        return ""

    def _begin(self):
        ui, node = self._ui, self._segmentation()
        content, drawn = ui.styleContentSelector.currentNode(), ui.styleSegmentationSelector.currentNode()
        return StyleJob(
            scene.volume_in_world(ui.styleSelector.currentNode()),
            scene.labelmap_from_segmentation(node) if node is not None else None,
            content=scene.volume_in_world(content) if content is not None else None,
            style_labelmap=scene.labelmap_from_segmentation(drawn) if drawn is not None else None,
            structures=ui.styleStructuresEdit.text,
            strength=ui.styleStrengthSlider.value / 100,
            refine=ui.styleRefineSpinBox.value,
            seed=self._seed(),
            called={"style": ui.styleSelector.currentNode().GetName()} | ({"content": content.GetName()} if content is not None else {}),
        )

    def _take(self, result) -> str:
        node = scene.volume_node_from(result, self._segmentation())
        views.show(node)
        return _("“{name}” made.").format(name=node.GetName())

    def _show_strength(self, *_ignored):
        self._ui.styleStrengthLabel.text = f"{self._ui.styleStrengthSlider.value} %"
