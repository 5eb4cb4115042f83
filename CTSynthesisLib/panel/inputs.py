"""Inputs: the segmentation's visible segments, what each was understood as, and the user's corrections."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from .. import anatomy, scene
from ..errors import UnusableInput
from .wording import said

SEGMENT, STRUCTURE, HOW, HU = range(4)


class SegmentTable:
    """Shows segments and takes corrections of their structure and Hounsfield value.

    Parameters
    ----------
    table : QTableWidget
        With four columns: segment, structure, how it was found, HU.
    label : QLabel
        Says in words what was assumed, or why a correction was not taken.
    corrected : callable
        Called with ``(names, hu)``, the complete corrections by segment name, when the user changed one.
    """

    def __init__(self, table, label, corrected):
        self._table, self._label, self._corrected = table, label, corrected
        self._understood, self._names, self._hu = (), {}, {}
        header = table.horizontalHeader()
        for column in (SEGMENT, STRUCTURE):
            header.setSectionResizeMode(column, qt.QHeaderView.Stretch)
        for column in (HOW, HU):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        table.connect("cellChanged(int,int)", self._on_edited)

    def show(self, segmentation_node, names, hu, phase="plain"):
        """Fill the table for a segmentation node (or None) with the corrections made so far; ``phase`` decides the rest of the HU."""
        segments = [segment for _id, segment in scene.visible_segments(segmentation_node)] if segmentation_node else []
        present = {segment.name for segment in segments}
        # corrections of segments that are hidden or renamed at the moment are kept, but not used
        self._names = {name: structure for name, structure in names.items() if name in present}
        self._hu = {name: value for name, value in hu.items() if name in present}
        self._understood = anatomy.understand(segments, phase=phase, names=self._names, hu=self._hu)
        self._fill()
        self._say(self._summary(segmentation_node))

    @property
    def corrections(self):
        """``(names, hu)`` that apply to the segments shown."""
        return dict(self._names), dict(self._hu)

    def _fill(self):
        table = self._table
        table.blockSignals(True)
        table.setRowCount(len(self._understood))
        for row, understood in enumerate(self._understood):
            tooltip = said(understood.note) or _("Drawn as {tissue}, {mean} ± {spread} HU.").format(
                tissue=understood.structure.tissue.value, mean=round(understood.mean_hu), spread=round(understood.sd_hu)
            )
            segment = understood.segment
            texts = {
                SEGMENT: segment.name,
                STRUCTURE: understood.structure.title,
                HOW: {"not understood": _("⚠ assumed"), "user": _("you")}.get(understood.how, understood.how),
                HU: f"{understood.mean_hu:.0f}",
            }
            for column, text in texts.items():
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tooltip)
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                item.setFlags(flags | qt.Qt.ItemIsEditable if column in (STRUCTURE, HU) else flags)
                font = item.font()
                font.setItalic(bool(understood.note))
                font.setBold((column == STRUCTURE and segment.name in self._names) or (column == HU and segment.name in self._hu))
                item.setFont(font)
                if column == SEGMENT and segment.color is not None:
                    item.setData(qt.Qt.DecorationRole, qt.QColor(*[round(255 * part) for part in segment.color]))
                if column == HU:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, item)
        table.blockSignals(False)

    def _say(self, sentence):
        self._label.text = sentence
        self._label.visible = bool(sentence)

    def _summary(self, segmentation_node):
        if segmentation_node is None:
            return ""
        if not self._understood:
            return _("No segment is visible; show or paint those that shall be generated.")
        assumed = [u.segment.name for u in self._understood if u.how == "not understood"]
        if assumed:
            return _("Not understood: {names}. Double-click “{structure}” to say what they are.").format(
                names=", ".join(assumed), structure=_("Understood as")
            )
        if any(u.note for u in self._understood):
            return _("Lines in italics rest on an assumption; point at them to read it.")
        return ""

    def _on_edited(self, row, column):
        name = self._understood[row].segment.name
        text = self._table.item(row, column).text().strip()
        names, hu = self.corrections
        try:
            if column == STRUCTURE:
                names.pop(name, None)
                if text:
                    names[name] = anatomy.structure(text).name
            elif column == HU:
                hu.pop(name, None)
                if text:
                    hu[name] = _hounsfield(text)
        except UnusableInput as error:
            self._fill()
            self._say(said(error))
            return
        self._corrected(names, hu)


def _hounsfield(text):
    try:
        value = float(text.replace("−", "-").replace(",", "."))
    except ValueError:
        value = float("nan")
    if not -1024 <= value <= 3071:
        raise UnusableInput(_("“{text}” is not a Hounsfield value; enter a number from -1024 to 3071.").format(text=text))
    return value
