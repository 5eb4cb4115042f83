"""Nodule: lung nodules put into a CT or taken out of it."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import scene, views
from ..errors import UnusableInput
from ..worker.nodule_job import NoduleJob
from .choice import Choice
from .job_section import JobSection

INJECT, ERASE = "inject", "erase"


class NoduleSection(JobSection):
    """The widgets whose names begin with ``nodule``, and the run that they start.

    Parameters
    ----------
    ui : namespace
        ``noduleVolumeSelector`` (the CT), ``nodulePlaceSelector`` (points, or a segmentation whose parts are nodules; none: where the slice
        views meet), ``noduleRandomSpinBox`` (so many at random places instead; 0 for none), ``noduleDiameterSpinBox``,
        ``noduleTypeSelector``, ``noduleEdgeSelector``, ``noduleAnywhereCheckBox``, ``noduleInjectButton``, ``noduleEraseButton``,
        ``noduleProgressBar``, ``noduleStatusLabel``.
    parameters : callable
        Returns the panel's parameters: seed, type, edge and places count.
    chosen : callable
        Called with ``(parameter, value)``.
    """

    def __init__(self, ui, parameters, chosen):
        super().__init__(ui.noduleProgressBar, ui.noduleStatusLabel)
        self._ui, self._parameters, self._node = ui, parameters, None
        kinds = {"solid": _("Solid"), "part-solid": _("Part-solid"), "ground-glass": _("Ground-glass")}
        edges = {"smooth": _("Smooth"), "lobulated": _("Lobulated"), "spiculated": _("Spiculated")}
        self.kind = Choice(ui.noduleTypeSelector, kinds, lambda kind: chosen("noduleType", kind))
        self.edge = Choice(ui.noduleEdgeSelector, edges, lambda edge: chosen("noduleEdge", edge))
        ui.noduleVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        # takes nodes of two kinds, which a parameter of the .ui cannot
        ui.nodulePlaceSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node=None: chosen("nodulePlaces", node))
        ui.noduleInjectButton.connect("clicked(bool)", lambda _checked=False: self._press(INJECT))
        ui.noduleEraseButton.connect("clicked(bool)", lambda _checked=False: self._press(ERASE))
        self.update()

    def show(self, parameters):
        self.kind.show(parameters.noduleType)
        self.edge.show(parameters.noduleEdge)
        self._ui.nodulePlaceSelector.setCurrentNode(parameters.nodulePlaces)

    def update(self, *_ignored):
        """Enable the buttons, or disable them and say in their tooltips what is missing."""
        ui, problem = self._ui, self._problem()
        for button, tip in ((ui.noduleInjectButton, _("Make a CT with the nodule in it, and the nodule as a segment")),
                            (ui.noduleEraseButton, _("Make a CT with healthy lung in the nodule's place"))):  # fmt: skip
            button.enabled = not problem and not self.busy
            button.toolTip = problem or (_("Wait for the run, or cancel it") if self.busy else tip)
        if self.busy:
            ui.noduleInjectButton.enabled = True
            ui.noduleInjectButton.toolTip = _("Stop; the scene stays as it was")
        ui.noduleInjectButton.text = _("Cancel") if self.busy else _("Put in")

    def close(self):
        super().close()
        self._node = None

    def _problem(self) -> str:
        return _("Select the CT to work on") if self._ui.noduleVolumeSelector.currentNode() is None else ""

    def _begin(self, what):
        ui, node, parameters = self._ui, self._ui.noduleVolumeSelector.currentNode(), self._parameters()
        volume = scene.volume_in_world(node)
        places = {"random": ui.noduleRandomSpinBox.value} if what == INJECT and ui.noduleRandomSpinBox.value else self._places(volume)
        own_size = what == ERASE or "at" not in places  # that of the outline, of what is found, or as in LIDC
        self._node, self._what = node, what
        return NoduleJob(
            what, volume, **places, diameter=None if own_size else ui.noduleDiameterSpinBox.value, kind=parameters.noduleType,
            edge=parameters.noduleEdge, seed=parameters.seed, anywhere=ui.noduleAnywhereCheckBox.checked,
            called=node.GetName(),
        )  # fmt: skip

    def _places(self, volume) -> dict:
        """Voxels or outlines, as NoduleJob takes them."""
        node = self._ui.nodulePlaceSelector.currentNode()
        if node is not None and node.IsA("vtkMRMLSegmentationNode"):
            return {"mask": scene.labelmap_from_segmentation(node)}
        if node is not None:
            points = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
            if not len(points):
                raise UnusableInput(_("“{name}” holds no point; place one in the middle of each nodule.").format(name=node.GetName()))
        else:
            point = views.crossing()
            if point is None:
                raise UnusableInput(_("The slice views meet in no point; show all three, or select points or a segmentation."))
            points = point[None]
        to_ijk = np.linalg.inv(volume.geometry.ijk_to_ras)
        return {"at": [tuple((to_ijk @ [*point, 1.0])[:3]) for point in points]}

    def _take(self, result) -> str:
        volume, labelmap = result
        name = self._node.GetName() if self._node is not None and self._node.GetScene() is not None else _("CT")
        named = _("{name} with nodules") if self._what == INJECT else _("{name} without nodules")
        node = scene.volume_node_from(volume, kind=named.format(name=name))
        made = _("“{name}” made.").format(name=node.GetName())
        if self._what == INJECT:
            segments = scene.labelmap_to_segmentation(labelmap, _("Nodules of {name}").format(name=node.GetName()))
            made = _("“{name}” made, its nodules as segments in “{segments}”.").format(name=node.GetName(), segments=segments.GetName())
        views.show(node)
        return made
