"""Outputs: where the result goes, the seed, and what is drawn where no segment is."""

from __future__ import annotations

import random

from slicer.i18n import tr as _

from .. import scene
from .choice import Choice

MAXIMUM_SEED = 2**31 - 1


class OutputsSection:
    """The dice and the surroundings; the output volume, the seed and the box are bound to the parameter node by the .ui.

    Parameters
    ----------
    ui : the panel's widgets
    chosen : callable
        Called with ``(parameter, value)``.
    """

    def __init__(self, ui, chosen):
        self._ui = ui
        words = {"body": _("Synthesised body"), "reference": _("CT of the segmentation"), "air": _("Air")}
        self._outside = Choice(ui.outsideSelector, words, lambda value: chosen("outside", value))
        ui.diceButton.connect("clicked(bool)", lambda _checked=False: chosen("seed", random.randrange(MAXIMUM_SEED)))

    def show(self, outside):
        self._outside.show(outside)

    def problem(self, segmentation_node, outside) -> str:
        """Why nothing can be generated with these surroundings, or an empty string."""
        if outside == "reference" and segmentation_node and scene.source_volume(segmentation_node) is None:
            return _("The segmentation has no CT to take the surroundings from; set its source volume in the Segment Editor")
        return ""
