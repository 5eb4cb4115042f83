"""Ctrl+G generates, Esc cancels; only while the module is open."""

from __future__ import annotations

import qt
import slicer


class Shortcuts:
    """Two shortcuts of the main window, or of ``widget`` where there is none.

    Parameters
    ----------
    generate, cancel : callable
    """

    def __init__(self, widget, generate, cancel):
        parent = slicer.util.mainWindow() or widget
        self._shortcuts = []
        for keys, action in (("Ctrl+G", generate), ("Esc", cancel)):
            shortcut = qt.QShortcut(parent)
            shortcut.setKey(qt.QKeySequence(keys))
            shortcut.connect("activated()", action)
            self._shortcuts.append(shortcut)

    def enable(self, on, cancel_too):
        """Esc is left to others while there is nothing to cancel."""
        for shortcut, enabled in zip(self._shortcuts, (on, on and cancel_too), strict=False):
            shortcut.enabled = enabled

    def remove(self):
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.setParent(None)
        self._shortcuts = []
