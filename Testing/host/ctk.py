"""STAND-IN for the widgets of CTK that the panel uses: their properties and signals, not their looks. Not CTK."""

from PySide6.QtCore import Property, QObject, Signal
from PySide6.QtWidgets import QGroupBox
from qt import stand_in


@stand_in
class ctkCollapsibleButton(QGroupBox):
    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False

    def _collapse(self, collapsed):
        self._collapsed = collapsed
        for child in QObject.children(self):
            if child.isWidgetType():
                child.setVisible(not collapsed)
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, lambda self: self.title, lambda self, text: self.setTitle(text))
    collapsed = Property(bool, lambda self: self._collapsed, _collapse)


def __getattr__(name):
    """Slicer's own Python names other classes to compare types with; none of them can be made here."""
    if not name.startswith("ctk"):
        raise AttributeError(name)

    def __init__(self, *_):
        raise NotImplementedError(f"the test host has no {name}")

    return type(name, (), {"__init__": __init__})
