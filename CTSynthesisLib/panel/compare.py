"""Compare: fade or swap between the last result and what was there before, in all slice views."""

from __future__ import annotations

from slicer.i18n import tr as _

from .. import views


class CompareSection:
    """A volume to compare with, a slider and a button.

    Parameters
    ----------
    ui : the panel's widgets
    pair : callable
        Returns ``(result, previous)``: the volume nodes that are compared when the user has chosen no other; each may be None.
    """

    def __init__(self, ui, pair):
        self._ui, self._pair = ui, pair
        ui.fadeSlider.connect("valueChanged(int)", self._on_faded)
        ui.swapButton.connect("clicked(bool)", self._on_swapped)
        ui.compareSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _node=None: self._on_chosen())
        self.update()

    def nodes(self):
        result, previous = self._pair()
        other = self._ui.compareSelector.currentNode() or previous
        return result, other if other is not result else None

    def update(self):
        """Enable what can be compared, or say why nothing can."""
        result, other = self.nodes()
        reason = ""
        if result is None:
            reason = _("Generate a volume first")
        elif other is None:
            reason = _("There is nothing else to compare with; choose another volume above")
        for widget, tooltip in (
            (self._ui.fadeSlider, _("Left: the result; right: the other volume. In all slice views.")),
            (self._ui.swapButton, _("Show the other one of the two in all slice views")),
        ):
            widget.enabled = not reason
            widget.toolTip = reason or tooltip

    def reset(self):
        """Back to the result, for example after another run."""
        self._ui.fadeSlider.blockSignals(True)
        self._ui.fadeSlider.setValue(0)
        self._ui.fadeSlider.blockSignals(False)
        self.update()

    def _on_chosen(self):
        self.update()
        if self._ui.fadeSlider.value:
            self._on_faded(self._ui.fadeSlider.value)

    def _on_faded(self, percent):
        result, other = self.nodes()
        if result is not None and other is not None:
            views.compare(result, other, percent / 100)

    def _on_swapped(self, _checked=False):
        self._ui.fadeSlider.setValue(0 if self._ui.fadeSlider.value >= 50 else 100)
