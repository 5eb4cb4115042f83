"""STAND-IN for Slicer's ``qt`` module (PythonQt): PySide6 given PythonQt's way of speaking. Not Slicer.

What PythonQt does and PySide6 does not, as far as the panel needs it:

* a Qt property is a Python attribute: ``button.enabled = True``, ``label.text``; ``name`` is the object's name
* a named child is an attribute of its parent
* ``button.connect("clicked(bool)", function)``, with the signature checked against the class
* setting an attribute that a Qt object does not have raises AttributeError

PythonQt's conversions and lifetimes are not imitated.
"""

import ctypes
import re
import sys
import xml.etree.ElementTree as ElementTree

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import *  # noqa: F403
from PySide6.QtGui import *  # noqa: F403
from PySide6.QtWidgets import *  # noqa: F403

QObject = QtCore.QObject
read_property, write_property = QObject.property, QObject.setProperty
MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
# PySide6 6.12 drops a reference to None, True or False at each call that returns one. Before Python 3.12 made these immortal, Python
# aborts when the references run out, after some ten thousand calls; these are enough for the tests.
SPARE_REFERENCES = [None, True, False] * 2_000_000
ctypes.pythonapi.Py_IncRef(ctypes.py_object(SPARE_REFERENCES))  # not even when Python ends

STAND_INS = {}  # class name in the .ui → Python class; filled by ctk.py and qmrml.py


def stand_in(cls):
    """Make a stand-in widget known to the .ui loader."""
    STAND_INS[cls.__name__] = cls
    return cls


# -- properties as attributes --------------------------------------------------------------------------------------------------------


def _to_python(value):
    return tuple(value) if isinstance(value, list) else value


def _attribute_for(name):
    def get(self):
        return _to_python(read_property(self, name))

    def set_(self, value):
        described = self.metaObject().property(self.metaObject().indexOfProperty(name))
        if not described.isWritable():
            raise AttributeError(f"property '{name}' of {type(self).__name__} is not writable")
        if not write_property(self, name, list(value) if isinstance(value, tuple) else value):
            raise AttributeError(f"property '{name}' of {type(self).__name__} does not accept {value!r}")

    return property(get, set_)


def _give_property_attributes(cls):
    meta = cls.staticMetaObject
    if meta.className() != cls.__name__:
        return
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        setattr(cls, meta.property(index).name(), _attribute_for(meta.property(index).name()))


def _set_attribute(self, name, value):
    declared = getattr(type(self), name, None)
    if isinstance(value, QObject) and read_property(value, "objectName") == name:
        return  # PySide6's loader makes each widget of a .ui an attribute of the outermost one; PythonQt's does not
    if name.startswith("_") or isinstance(value, QtCore.SignalInstance):
        _plain_set_attribute(self, name, value)
    elif isinstance(declared, property):
        declared.__set__(self, value)
    elif isinstance(declared, QtCore.Property):
        if not write_property(self, name, list(value) if isinstance(value, tuple) else value):
            raise AttributeError(f"property '{name}' of {type(self).__name__} does not accept {value!r}")
    elif name.encode() in [bytes(dynamic) for dynamic in self.dynamicPropertyNames()]:
        write_property(self, name, value)
    elif type(self).__module__.startswith("PySide6.") or type(self).__name__ in STAND_INS:
        raise AttributeError(f"{type(self).__name__} has no property '{name}' that could be set")
    else:
        _plain_set_attribute(self, name, value)


def _missing_attribute(self, name):
    if not name.startswith("_") and shiboken6.isValid(self):
        if (value := read_property(self, name)) is not None:
            return value
        for child in QObject.children(self):
            if read_property(child, "objectName") == name:
                return child
    raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")


def _attribute_getter(original):
    def get_attribute(self, name):
        if name == "connect":  # PySide6 has other meanings for these two
            return lambda *arguments: _connect(self, *arguments)
        if name == "disconnect":
            return lambda *arguments: _disconnect(self, *arguments)
        try:
            if isinstance(getattr(type(self), name, None), QtCore.Property):
                return _to_python(read_property(self, name))
            return original(self, name)
        except AttributeError:
            return _missing_attribute(self, name)

    return get_attribute


# -- signals by signature ------------------------------------------------------------------------------------------------------------


def _signal(sender, signature):
    signature = bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()
    name, arguments = re.fullmatch(r"(\w+)\((.*)\)", signature).groups()
    # signals of stand-ins that carry VTK objects are unknown to Qt's meta object
    carried = getattr(type(sender), "VTK_SIGNALS", {})
    known = carried.get(name) == signature if name in carried else sender.metaObject().indexOfSignal(signature) >= 0
    if not known:
        raise RuntimeError(f"{type(sender).__name__} has no signal '{signature}'")
    signal = getattr(sender, name)
    overloaded = sum(bytes(m.name()).decode() == name for m in _methods(sender.metaObject())) > 1
    return signal[arguments] if overloaded else signal


def _methods(meta):
    return [meta.method(index) for index in range(meta.methodCount())]


def _connect(sender, signature, receiver, slot=None):
    _signal(sender, signature).connect(receiver if slot is None else getattr(receiver, slot.split("(")[0]))
    return True


def _disconnect(sender, signature, receiver):
    _signal(sender, signature).disconnect(receiver)
    return True


# -- every class gets this -----------------------------------------------------------------------------------------------------------

_plain_set_attribute = shiboken6.Object.__setattr__
_classes = [c for module in MODULES for c in vars(module).values() if isinstance(c, type) and issubclass(c, QObject)]
_getters = {cls: cls.__getattribute__ for cls in _classes}  # all of them before the first is replaced
for _class in _classes:
    if _class is not QObject and _class is not QtCore.QTimer:  # QTimer.singleShot is a property and a function: left to its setters
        _give_property_attributes(_class)
    _class.__setattr__ = _set_attribute
    _class.__getattribute__ = _attribute_getter(_getters[_class])
QObject.objectName = QObject.name = _attribute_for("objectName")
QObject.className = lambda self: self.metaObject().className()


class QUiLoader(QtUiTools.QUiLoader):
    """Knows the stand-ins, refuses classes that it does not know, and makes the connections that carry VTK objects."""

    def createWidget(self, class_name, parent=None, name=""):
        if class_name in STAND_INS:
            widget = STAND_INS[class_name](parent)
            write_property(widget, "objectName", name)
            return widget
        if class_name not in self.availableWidgets():
            raise RuntimeError(f"the test host has no '{class_name}' (widget '{name}')")
        return super().createWidget(class_name, parent, name)

    def load(self, file):
        tree = ElementTree.fromstring(bytes(file.readAll()))
        carrying_vtk = []
        for connections in tree.iter("connections"):
            for connection in [c for c in connections if "vtk" in c.findtext("signal")]:
                carrying_vtk.append(connection)
                connections.remove(connection)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        root = super().load(buffer)
        for connection in carrying_vtk:
            sender, receiver = (_find(root, connection.findtext(end)) for end in ("sender", "receiver"))
            _connect(sender, connection.findtext("signal"), receiver, connection.findtext("slot"))
        return root


def _find(root, name):
    found = root if read_property(root, "objectName") == name else root.findChild(QObject, name)
    if found is None:
        raise RuntimeError(f"the .ui connects '{name}', which it does not contain")
    return found


sys.modules.setdefault("qt", sys.modules[__name__])
