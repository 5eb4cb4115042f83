"""The test host: a real MRML scene (slicer-core) and real Qt (PySide6) behind stand-ins for what only the 3D Slicer application has.

If the environment variable ``SLICER_PYTHON_DIR`` names the ``slicer`` folder of a genuine Slicer's Python (``Base/Python/slicer`` of its
source), the module runs on Slicer's own ScriptedLoadableModule and parameterNodeWrapper instead of the stand-ins for these two.
"""

import importlib
import os
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # so that `import qt` and `import ctk` find the stand-ins

import ctk  # noqa: F401  registers its stand-ins with the .ui loader
import parameter_node
import qmrml
import scripted_module
import slicer
from PySide6 import QtCore, QtWidgets

GENUINE = os.environ.get("SLICER_PYTHON_DIR")


class _ModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)


class App(QtWidgets.QApplication):
    """STAND-IN for ``slicer.app``: testing mode, no main window, no layout manager."""

    startupCompleted = QtCore.Signal()

    def __init__(self):
        super().__init__(["CTSynthesis tests"])
        self._module_manager = _ModuleManager(self)

    def moduleManager(self):
        return self._module_manager

    def testingEnabled(self):
        return True

    def layoutManager(self):
        return None

    def translate(self, context, text):
        return text


def start():
    """Make ``slicer.app`` and the parts of ``slicer`` that modules import. The MRML scene must have been booted before."""
    slicer.app = App()
    slicer.util.mainWindow = lambda verbose=True: None
    if GENUINE:
        slicer.__path__.append(GENUINE)
        return slicer.app
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = (lambda text: text), (lambda context, text: text)
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper, wrapper.WithinRange = parameter_node.parameterNodeWrapper, parameter_node.WithinRange
    for name, module in {"i18n": i18n, "parameterNodeWrapper": wrapper, "ScriptedLoadableModule": scripted_module}.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    return slicer.app


def load_module(path):
    """What Slicer does with a scripted module at start-up: import it, make its module object, register it."""
    name = Path(path).stem
    if str(Path(path).parent) not in sys.path:
        sys.path.insert(0, str(Path(path).parent))
    module = importlib.import_module(name)
    parent = types.SimpleNamespace(path=str(path), title="", categories=[], dependencies=[], contributors=[], helpText="", icon=None)
    parent.module = getattr(module, name)(parent)
    setattr(slicer.modules, name.lower(), parent)
    return module, parent


class ModulePanel(qmrml.qMRMLWidget):
    isEntered = False


def open_panel(module, name):
    """What Slicer does when the user opens a module for the first time. Returns the module's widget object."""
    panel = ModulePanel()
    panel.setLayout(QtWidgets.QVBoxLayout())
    panel.setMRMLScene(slicer.mrmlScene)
    widget = getattr(module, f"{name}Widget")(panel)
    widget.setup()
    panel.resize(440, 640)
    panel.show()
    panel.isEntered = True
    widget.enter()
    slicer.app.processEvents()
    return widget


def leave(widget):
    """What Slicer does when the user opens another module."""
    widget.parent.hide()
    widget.parent.isEntered = False
    widget.exit()


def come_back(widget):
    """What Slicer does when the user opens the module again."""
    widget.parent.show()
    widget.parent.isEntered = True
    widget.enter()


def settle():
    """Let the event loop do what is pending, deletions too."""
    slicer.app.processEvents()
    slicer.app.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
