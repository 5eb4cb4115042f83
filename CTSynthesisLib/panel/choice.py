"""A list of a few choices, kept in step with a value of the parameter node."""

from __future__ import annotations


class Choice:
    """Fills a QComboBox.

    Parameters
    ----------
    selector : QComboBox
    options : dict
        What the user reads, by value.
    chosen : callable
        Called with the value when the user chose one.
    """

    def __init__(self, selector, options, chosen):
        self._selector, self._chosen = selector, chosen
        for value, text in options.items():
            selector.addItem(text, value)
        selector.connect("currentIndexChanged(int)", self._on_changed)

    def show(self, value):
        self._selector.blockSignals(True)
        self._selector.setCurrentIndex(self._selector.findData(value))
        self._selector.blockSignals(False)

    def _on_changed(self, index):
        if index >= 0:
            self._chosen(self._selector.itemData(index))
