"""Keep or discard: what to do with the last result, and how similar it is to the scans that the model was trained on."""

from __future__ import annotations

from slicer.i18n import tr as _


class ReviewSection:
    """Three buttons and a sentence.

    Parameters
    ----------
    ui : the panel's widgets
    compare, keep, undo : callable
        What the buttons do.
    """

    def __init__(self, ui, compare, keep, undo):
        self._ui = ui
        ui.similarityButton.connect("clicked(bool)", lambda _checked=False: compare())
        ui.keepButton.connect("clicked(bool)", lambda _checked=False: keep())
        ui.undoButton.connect("clicked(bool)", lambda _checked=False: undo())
        self.forget()

    def forget(self):
        """Nothing is known of the last result yet."""
        self._ui.similarityLabel.text = _("Similarity to training scans: not measured.")
        self._ui.similarityLabel.toolTip = ""

    def show(self, similarity):
        copy = similarity.value >= similarity.limit
        text = _("Similarity to the nearest training scan: {value} (limit {limit}). {verdict}")
        verdict = _("Too similar: better discard it.") if copy else _("No sign of a copy.")
        self._ui.similarityLabel.text = text.format(value=f"{similarity.value:.2f}", limit=f"{similarity.limit:.2f}", verdict=verdict)
        self._ui.similarityLabel.toolTip = _(
            "1 is the same scan. The limit lies two standard deviations above that of real pairs of persons."
        )

    def allow(self, last, busy):
        """Enable what can be done with the volume node ``last`` (or None), and say why the rest cannot."""
        reason = _("Generate a volume first") if last is None else _("Wait until the worker is free, or cancel") if busy else ""
        kept = last is not None and last.GetAttribute("CTSynthesis.Kept") == "1"
        buttons = {
            self._ui.similarityButton: (reason, _("How similar the result is to the training scan nearest to it; takes some seconds")),
            self._ui.keepButton: (reason or (_("It is kept already") if kept else ""), _("Mark the result as reviewed and kept")),
            self._ui.undoButton: (reason, _("Discard the last result, and show the one before it. An overwritten volume comes back.")),
        }
        for button, (why_not, tooltip) in buttons.items():
            button.enabled = not why_not
            button.toolTip = why_not or tooltip
