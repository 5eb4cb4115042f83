"""Quality report: what each structure of the result holds, against what it was to get."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _


class QualitySection:
    """Fills the table from the worker's report.

    Parameters
    ----------
    label, table : QLabel, QTableWidget
    """

    def __init__(self, label, table):
        self._label, self._table = label, table
        header = table.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in range(1, 5):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        self.clear()

    def clear(self, sentence=""):
        self._table.setRowCount(0)
        self._table.visible = False
        self._label.text = sentence or _("Generate a volume to see what its structures hold.")

    def show(self, name, rows):
        """``rows`` is a tuple of evaluation.report.Row, of the volume ``name``; those that are off come first."""
        rows = sorted(rows, key=lambda row: (not row.off, -row.volume_ml))
        off = [row for row in rows if row.off]
        if off:
            text = _("“{name}”: {count} of {all} structures not as expected: {names}.")
            self._label.text = text.format(name=name, count=len(off), all=len(rows), names=", ".join(row.segment for row in off))
        else:
            self._label.text = _("“{name}”: all {all} structures are as expected.").format(name=name, all=len(rows))
        self._table.setRowCount(len(rows))
        for place, row in enumerate(rows):
            self._fill(place, row)
        self._table.visible = True  # a closed section keeps it hidden until it opens, unless it was hidden explicitly

    def _fill(self, place, row):
        empty = row.volume_ml == 0
        texts = [
            ("⚠ " if row.off else "") + row.segment,
            f"{row.expected_hu:.0f} ± {row.expected_sd:.0f}",
            "–" if empty else f"{row.median_hu:.0f}",
            "–" if empty else f"{row.sd_hu:.0f}",
            f"{row.volume_ml:.0f}" if row.volume_ml >= 10 else f"{row.volume_ml:.1f}",
        ]
        tooltip = _("As expected.")
        if row.off:
            tooltip = _("The median is further from the expected value than the structure usually varies: look at it before you use it.")
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tooltip)
            font = item.font()
            font.setBold(row.off)
            item.setFont(font)
            if column:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            self._table.setItem(place, column, item)
