"""Live preview: the box, and the moment at which a stroke is taken up."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

GATHER_MS = 40  # painting sends many events; what comes within this time is taken up together


class PreviewSection:
    """The box, its tooltip and the waiting for a stroke's end; the box is bound to the parameter node by the .ui.

    Parameters
    ----------
    box : QCheckBox
    stroke : callable
        Called a moment after :meth:`painted`.
    """

    def __init__(self, box, stroke):
        self._box, self._stroke = box, stroke
        self._tooltip = box.toolTip
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(GATHER_MS)
        self._timer.connect("timeout()", self._on_time)

    def painted(self):
        """Something has changed; more may follow at once. It is not put off by what follows, so a long stroke is followed too."""
        if not self._timer.active:
            self._timer.start()

    def allow(self, card, problem):
        """``card`` of the chosen model, and why nothing can be generated at all (or an empty string)."""
        if not problem and card is not None and not card.receptive_field:
            problem = _("The model “{name}” sees whole slices, so a stroke could change all of one; generate the volume").format(
                name=card.title
            )
        self._box.enabled = not problem
        self._box.toolTip = problem or self._tooltip

    def stop(self):
        self._timer.stop()

    def _on_time(self):
        self._stroke()
