"""The panel's dialogs. Each belongs to the main window; while the application is tested, when nobody answers, none is opened."""

from __future__ import annotations

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _


def agreed(question, details, *, yes, no) -> bool:
    """Ask a question that needs some explaining; whether ``yes`` was clicked."""
    if slicer.app.testingEnabled():
        return False
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Question)
    box.setWindowTitle(_("CT Synthesis"))
    box.setText(question)
    box.setInformativeText(details)
    accept = box.addButton(yes, qt.QMessageBox.AcceptRole)
    box.setDefaultButton(accept)
    box.setEscapeButton(box.addButton(no, qt.QMessageBox.RejectRole))
    box.exec_()
    clicked = box.clickedButton()
    box.deleteLater()
    return clicked is accept or clicked == accept


def file_to_open(title, kinds) -> str:
    """The path of the file that was chosen, or an empty string."""
    return _asked(qt.QFileDialog.getOpenFileName, title, "", kinds)


def file_to_save(title, name, kinds) -> str:
    """The path that was chosen, or an empty string."""
    return _asked(qt.QFileDialog.getSaveFileName, title, name, kinds)


def folder(title) -> str:
    """The path of the folder that was chosen, or an empty string."""
    return _asked(qt.QFileDialog.getExistingDirectory, title)


def _asked(dialog, *arguments) -> str:
    return "" if slicer.app.testingEnabled() else str(dialog(slicer.util.mainWindow(), *arguments) or "")
