"""STAND-IN for the widgets of CTK that the panel uses: their properties and signals, not their looks. Not CTK."""

from PySide6.QtCore import Property, QEvent, QObject, Qt, Signal
from PySide6.QtWidgets import QGroupBox
from qt import read_property, stand_in, write_property

WANTED = "visibilityToParent"  # CTK's name for what a child was told last by anyone but the section


@stand_in
class ctkCollapsibleButton(QGroupBox):
    """Keeps CTK's rule: a child that was hidden explicitly stays hidden when the section opens, and one shown while it is closed waits."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        self._collapsed, self._forcing = False, True
        super().__init__(parent)
        self._forcing = False

    def _collapse(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in QObject.children(self):
            if child.isWidgetType():
                self._show_or_hide(child)
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, lambda self: self.title, lambda self, text: self.setTitle(text))
    collapsed = Property(bool, lambda self: self._collapsed, _collapse)

    def _show_or_hide(self, child):
        wanted = read_property(child, WANTED) is not False
        self._forcing = True
        child.setVisible(wanted and not self._collapsed)
        self._forcing = False
        if wanted:
            child.setAttribute(Qt.WA_WState_ExplicitShowHide, False)

    def childEvent(self, event):
        if event.type() == QEvent.ChildAdded and event.child().isWidgetType():
            event.child().installEventFilter(self)
            self._show_or_hide(event.child())
        super().childEvent(event)

    def setVisible(self, visible):
        self._forcing = True
        super().setVisible(visible)
        self._forcing = False

    def eventFilter(self, child, event):
        if not self._forcing and event.type() in (QEvent.ShowToParent, QEvent.HideToParent):  # someone else did it
            write_property(child, WANTED, event.type() == QEvent.ShowToParent)
            if event.type() == QEvent.ShowToParent:
                self._show_or_hide(child)
        return False


def __getattr__(name):
    """Slicer's own Python names other classes to compare types with; none of them can be made here."""
    if not name.startswith("ctk"):
        raise AttributeError(name)

    def __init__(self, *_):
        raise NotImplementedError(f"the test host has no {name}")

    return type(name, (), {"__init__": __init__})
