"""STAND-INS for the MRML widgets that the panel uses, on a real vtkMRMLScene. Not Slicer's."""

import slicer
import vtk
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget
from qt import stand_in


@stand_in
class qMRMLWidget(QWidget):
    mrmlSceneChanged = Signal(object)
    VTK_SIGNALS = {"mrmlSceneChanged": "mrmlSceneChanged(vtkMRMLScene*)"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


def _kept(name, kind, default):
    """A property that only keeps its value."""
    return Property(kind, lambda self: self._values.get(name, default), lambda self, value: self._keep(name, value))


@stand_in
class qMRMLNodeComboBox(QWidget):
    """Lists the nodes of some classes. Like the real one it never selects a node by itself when nodes appear."""

    currentNodeChanged = Signal(object)
    VTK_SIGNALS = {"currentNodeChanged": "currentNodeChanged(vtkMRMLNode*)"}

    nodeTypes = _kept("nodeTypes", "QStringList", [])
    showChildNodeTypes = _kept("showChildNodeTypes", bool, True)
    noneEnabled = _kept("noneEnabled", bool, False)
    noneDisplay = _kept("noneDisplay", str, "None")
    addEnabled = _kept("addEnabled", bool, True)
    removeEnabled = _kept("removeEnabled", bool, True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._values, self._scene, self._current = {}, None, ""
        self._list = QComboBox()
        self._list.activated.connect(lambda index: self.setCurrentNodeID(self._list.itemData(index)))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)

    def _keep(self, name, value):
        self._values[name] = value
        self._rebuild()

    def setMRMLScene(self, scene):
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent, scene.EndImportEvent, scene.EndCloseEvent)
        tags = [scene.AddObserver(event, self._rebuild) for event in events]
        self.destroyed.connect(lambda *_: [scene.RemoveObserver(tag) for tag in tags])
        self._rebuild()

    def nodes(self):
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if not node.GetHideFromEditors() and self._accepts(node)]

    def _accepts(self, node):
        if self.showChildNodeTypes:
            return any(node.IsA(kind) for kind in self.nodeTypes)
        return node.GetClassName() in self.nodeTypes

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _rebuild(self, *_):
        if self._scene is None or self._scene.IsBatchProcessing():
            return
        nodes = self.nodes()
        self._list.blockSignals(True)
        self._list.clear()
        if self.noneEnabled:
            self._list.addItem(self.noneDisplay, "")
        for node in nodes:
            self._list.addItem(node.GetName(), node.GetID())
        self._list.blockSignals(False)
        self.setCurrentNodeID(self._current if self._current in [node.GetID() for node in nodes] else "")

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node else "")

    def setCurrentNodeID(self, node_id):
        node_id = node_id or ""
        self._list.blockSignals(True)
        self._list.setCurrentIndex(self._list.findData(node_id))
        self._list.blockSignals(False)
        if node_id != self._current:
            self._current = node_id
            self.currentNodeChanged.emit(self.currentNode())


def _absent(name):
    def __init__(self, *_):
        raise NotImplementedError(f"the test host has no {name}")

    return type(name, (), {"__init__": __init__})


slicer.qMRMLWidget, slicer.qMRMLNodeComboBox = qMRMLWidget, qMRMLNodeComboBox
for _name in ("qMRMLSliderWidget", "qMRMLRangeWidget", "qMRMLSpinBox", "qMRMLSubjectHierarchyComboBox", "qMRMLSubjectHierarchyTreeView"):
    setattr(slicer, _name, _absent(_name))  # Slicer's own Python compares types with these; none can be made here
