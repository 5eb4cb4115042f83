"""STAND-IN for ``slicer.parameterNodeWrapper``: typed attributes kept in a real vtkMRMLScriptedModuleNode. Not Slicer's.

Supports the types that the module uses (MRML nodes, bool, int, float, str, dicts of str and float) and the widgets that its .ui connects.
"""

import json
import typing
from dataclasses import dataclass

import slicer
import vtk


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float

    def check(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not between {self.minimum} and {self.maximum}")


class _Parameter:
    """One typed attribute; its value lives in the node, so that it is saved with the scene."""

    def __init__(self, name, annotation, default):
        self.name = name
        self.type, *self.annotations = typing.get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        self.is_node = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        plain = typing.get_origin(self.type) or self.type
        if not self.is_node and plain not in (bool, float, int, str, dict):
            raise TypeError(f"the test host does not support parameters of type {self.type}")
        self.default = default if default is not None or self.is_node else plain()

    def __get__(self, wrapper, owner=None):
        node = wrapper.parameterNode
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return json.loads(text) if text else json.loads(json.dumps(self.default))

    def __set__(self, wrapper, value):
        node = wrapper.parameterNode
        if self.is_node:
            if value is not None and not value.IsA(self.type.__name__):
                raise TypeError(f"'{self.name}' takes a {self.type.__name__}, not a {value.GetClassName()}")
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        if not isinstance(value, typing.get_origin(self.type) or self.type):
            raise TypeError(f"'{self.name}' takes {self.type}, not {value!r}")
        for annotation in self.annotations:
            annotation.check(value)
        node.SetParameter(self.name, json.dumps(value))


class _Wrapper:
    """What the decorated class becomes."""

    _parameters: dict = {}

    def __init__(self, node):
        object.__setattr__(self, "parameterNode", node)
        object.__setattr__(self, "_connections", {})
        object.__setattr__(self, "_writing", False)

    def __setattr__(self, name, value):
        if name not in self._parameters:
            raise AttributeError(f"'{name}' is not a parameter")
        super().__setattr__(name, value)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, ui):
        """Bind every widget with a ``SlicerParameterName`` to that parameter, both ways."""
        bound = [(w.property("SlicerParameterName"), w) for w in vars(ui).values() if w.property("SlicerParameterName")]
        bindings = [_binding(self, name, widget) for name, widget in bound]

        def to_widgets(*_):
            if not self._writing:
                object.__setattr__(self, "_writing", True)
                for write, _signal, _slot in bindings:
                    write()
                object.__setattr__(self, "_writing", False)

        to_widgets()
        for _write, signal, slot in bindings:
            signal.connect(slot)
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, to_widgets)
        self._connections[tag] = bindings
        return tag

    def disconnectGui(self, tag):
        for _write, signal, slot in self._connections.pop(tag):
            signal.disconnect(slot)
        self.RemoveObserver(tag)


def _binding(wrapper, name, widget):
    """How to write a parameter to its widget, the signal that says that it changed, and what to do then."""
    parameter = wrapper._parameters[name]  # a .ui that names an unknown parameter fails here
    if parameter.is_node and widget.className() == "qMRMLNodeComboBox":
        return (
            lambda: widget.setCurrentNode(getattr(wrapper, name)),
            widget.currentNodeChanged,
            lambda *_: wrapper._writing or setattr(wrapper, name, widget.currentNode()),
        )
    if (parameter.type, widget.className()) in ((int, "QSpinBox"), (int, "QSlider"), (float, "QDoubleSpinBox")):
        limits = parameter.annotations[0]
        widget.setRange(limits.minimum, limits.maximum)
        return (
            lambda: widget.setValue(getattr(wrapper, name)),
            widget.valueChanged,
            lambda *_: wrapper._writing or setattr(wrapper, name, widget.value),
        )
    if parameter.type is str and widget.className() == "QLineEdit":
        return (
            lambda: widget.setText(getattr(wrapper, name)),
            widget.textChanged,
            lambda *_: wrapper._writing or setattr(wrapper, name, widget.text),
        )
    if parameter.type is bool and widget.className() == "QCheckBox":
        return (
            lambda: widget.setChecked(getattr(wrapper, name)),
            widget.toggled,
            lambda *_: wrapper._writing or setattr(wrapper, name, widget.checked),
        )
    raise RuntimeError(f"the test host cannot connect {widget.className()} to '{name}' of type {parameter.type}")


def parameterNodeWrapper(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    return type(cls.__name__, (_Wrapper,), {**parameters, "_parameters": parameters, "__doc__": cls.__doc__})
