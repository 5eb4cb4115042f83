import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

try:
    import CTSynthesisLib
except ModuleNotFoundError:  # running from the source tree, where the library lies beside this folder
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import CTSynthesisLib

from CTSynthesisLib import scene
from CTSynthesisLib.errors import SynthesisFailed
from CTSynthesisLib.panel.dependencies import ensure_torch
from CTSynthesisLib.panel.outputs import MAXIMUM_SEED
from CTSynthesisLib.panel.panel import Panel
from CTSynthesisLib.panel.sample_data import register_sample_data
from CTSynthesisLib.panel.timer import timed_runner
from CTSynthesisLib.runner import Listener
from CTSynthesisLib.volume import Geometry, LabelMap, Segment


class CTSynthesis(ScriptedLoadableModule):
    """Generates synthetic CT volumes from segmentations."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CT Synthesis")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The CTSynthesis developers"]
        self.parent.helpText = _(
            "Generates a synthetic CT volume from a segmentation: choose a segmentation, see how its segments were understood, and click"
            " Generate. The volumes are synthetic and not for clinical use."
            ' See the <a href="https://github.com/ctsynthesis/SlicerCTSynthesis">documentation</a>.'
        )
        self.parent.acknowledgementText = _(
            "Built on 3D Slicer and PyTorch, after M. Habijan and I. Galić, “Generation of artificial CT images using patch-based"
            " conditional generative adversarial networks” (2022)."
        )
        self.parent.icon = qt.QIcon(str(CTSynthesisLib.RESOURCES / "Icons" / "CTSynthesis.png"))
        slicer.app.connect("startupCompleted()", register_sample_data)


@parameterNodeWrapper
class CTSynthesisParameterNode:
    """What the user chose; it is saved with the scene.

    segmentation - The segmentation to generate from.
    structureNames - Structure of each segment that the user corrected, by segment name.
    hounsfield - HU of each segment that the user set, by segment name.
    phase - Contrast phase.
    model - Name of the model.
    outputVolume - The volume to overwrite; none for a new one at each run.
    seed - Chooses the random texture.
    outside - What is drawn outside the segments.
    fillIn - Whether the unspecified interior is filled with plausible anatomy.
    livePreview - Whether slices follow the brush.
    compareVolume - The volume to compare the result with; none for what was shown before.
    device - Where the network runs.
    styleVolume, styleSegmentation - Style: the CT whose look is taken, and its segmentation.
    styleContent - Style: the CT to restyle; none to generate one.
    styleStructures - Style: segments or structures, separated by commas; empty for all.
    styleStrength - Style: percent.
    styleRefine - Style: steps of optimisation.
    noduleVolume - Nodule: the CT to work on.
    nodulePlaces - Nodule: points or a segmentation; none for where the slice views meet.
    noduleRandom - Nodule: so many at random places instead.
    noduleDiameter - Nodule: millimetres.
    noduleType, noduleEdge, noduleAnywhere - Nodule: what is put in, and whether outside the lungs too.
    volumeSize - Volume: voxels along each side.
    volumeNodules - Volume: lung nodules.
    """

    segmentation: vtkMRMLSegmentationNode
    structureNames: dict[str, str]
    hounsfield: dict[str, float]
    phase: str = "plain"
    model: str = "default"
    outputVolume: vtkMRMLScalarVolumeNode
    seed: Annotated[int, WithinRange(0, MAXIMUM_SEED)] = 0
    outside: str = "body"
    fillIn: bool = True
    livePreview: bool = False
    compareVolume: vtkMRMLScalarVolumeNode
    device: str = "auto"
    styleVolume: vtkMRMLScalarVolumeNode
    styleSegmentation: vtkMRMLSegmentationNode
    styleContent: vtkMRMLScalarVolumeNode
    styleStructures: str
    styleStrength: Annotated[int, WithinRange(0, 100)] = 100
    styleRefine: Annotated[int, WithinRange(0, 1000)] = 0
    noduleVolume: vtkMRMLScalarVolumeNode
    nodulePlaces: vtkMRMLNode
    noduleRandom: Annotated[int, WithinRange(0, 100)] = 0
    noduleDiameter: Annotated[float, WithinRange(3.0, 30.0)] = 8.0
    noduleType: str = "solid"
    noduleEdge: str = "smooth"
    noduleAnywhere: bool = False
    volumeSize: Annotated[int, WithinRange(64, 512)] = 224
    volumeNodules: Annotated[int, WithinRange(0, 50)] = 0


class CTSynthesisWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Wires the sections of the panel to the parameter node and the logic."""

    SEGMENTATION_EVENTS = (
        slicer.vtkSegmentation.SegmentAdded,
        slicer.vtkSegmentation.SegmentRemoved,
        slicer.vtkSegmentation.SegmentModified,
        slicer.vtkSegmentation.SourceRepresentationModified,
        slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
    )

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._segmentationNode = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(str(CTSynthesisLib.RESOURCES / "UI" / "CTSynthesis.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTSynthesisLogic()
        self.panel = Panel(ui, self.logic.runner, uiWidget)
        # painting changes a segmentation many times a second; the table follows when the events are through
        self.segmentTableTimer = qt.QTimer()
        self.segmentTableTimer.setSingleShot(True)
        self.segmentTableTimer.setInterval(100)
        self.segmentTableTimer.connect("timeout()", self.panel.update)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneReady)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneReady)
        self.initializeParameterNode()

    def cleanup(self):
        """Called when the module is reloaded and when the application closes."""
        self.segmentTableTimer.stop()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.close()
        self.panel.close()

    def enter(self):
        self.panel.enter(True)
        self.initializeParameterNode()

    def exit(self):
        """Only the panel is let go: a live preview goes on following what is painted in the Segment Editor, and a run goes on too."""
        self.disconnectGui()
        self.panel.enter(False)

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)
        self.panel.forget()

    def onSceneReady(self, caller, event):
        """A scene was closed, or one was loaded: only now the nodes that its choices refer to are all there."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Make sure that the parameter node exists and is observed; select the only segmentation to save a click."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")

    def setParameterNode(self, parameterNode):
        self.disconnectGui()
        if self._parameterNode:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = parameterNode
        if parameterNode:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.onParametersChanged()

    def disconnectGui(self):
        if self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
        self._parameterNodeGuiTag = None

    def onParametersChanged(self, caller=None, event=None):
        self.observeSegmentation(self._parameterNode.segmentation if self._parameterNode else None)
        self.panel.show(self._parameterNode)

    def observeSegmentation(self, node):
        if node is self._segmentationNode:
            return
        for event in self.SEGMENTATION_EVENTS:
            if self._segmentationNode:
                self.removeObserver(self._segmentationNode, event, self.onSegmentationChanged)
            if node:
                self.addObserver(node, event, self.onSegmentationChanged)
        self._segmentationNode = node

    def onSegmentationChanged(self, caller=None, event=None):
        if self.parent.isEntered:  # else nobody sees the table; entering fills it anew
            self.segmentTableTimer.start()
        self.panel.painted()


class CTSynthesisLogic(ScriptedLoadableModuleLogic):
    """The door for scripts; no widget is needed. More examples, also for whole folders: docs/scripting.md.

    Example::

        from CTSynthesis import CTSynthesisLogic
        logic = CTSynthesisLogic()
        volumeNode = logic.generate(slicer.util.getNode("Segmentation"))
        logic.exportVolume(volumeNode, "synthetic.nrrd")
        logic.exportDicom(volumeNode, "synthetic-dicom")
        logic.close()
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.runner = timed_runner()

    @property
    def session(self):
        return self.runner.session

    @session.setter
    def session(self, session):
        self.runner.session = session

    @property
    def result(self):
        """How the last run came about: ``understood``, ``assumptions``, ``device``, ``seconds`` (synthesis.generate.Result)."""
        return self.runner.result

    def getParameterNode(self):
        return CTSynthesisParameterNode(super().getParameterNode())

    def generate(
        self,
        segmentationNode,
        request=None,
        outputVolume=None,
        names=None,
        progress=None,
        waitForCompletion=True,
        completed=None,
    ):
        """Generate a synthetic CT from the visible segments of a segmentation.

        :param segmentationNode: vtkMRMLSegmentationNode
        :param request: CTSynthesisLib.synthesis.request.Request (model, seed, HU, ...); by default the default model with seed 0
        :param outputVolume: vtkMRMLScalarVolumeNode to overwrite; by default a new one is made
        :param names: dict from segment name to structure name, for segments that are not understood by themselves
        :param progress: called with (fraction, stage) meanwhile
        :param waitForCompletion: if False, return None at once; the event loop does the rest
        :param completed: if not waiting, called with (volumeNode, None), or with (None, error) after a failure or a cancel
        :return: the volume node, when waiting
        :raises UnusableInput, SynthesisFailed: one sentence on what is wrong and what to do; the scene is as it was
        """
        if waitForCompletion:
            return self.runner.generate_and_wait(segmentationNode, request, outputVolume, names, progress)
        self.runner.listener = Listener(progress, completed)
        self.runner.generate(segmentationNode, request, outputVolume, names)
        return None

    def cancel(self):
        """Cancel a run that was started without waiting; its ``completed`` is called with a Cancelled error."""
        self.runner.cancel()

    def exportVolume(self, volumeNode, path):
        """Write a volume to NRRD, NIfTI or MHA so that it lies where it is seen (under transforms, a hardened copy)."""
        scene.export_volume(volumeNode, path)

    def exportDicom(self, volumeNode, folder):
        """Write a volume as a DICOM CT series that says that it is synthetic, into a new folder; no patient data goes into it."""
        return scene.export_dicom(volumeNode, folder)

    def close(self):
        """End the worker process. The next run starts a new one."""
        self.runner.close()


class CTSynthesisTest(ScriptedLoadableModuleTest):
    """Run inside 3D Slicer; the repository's Testing folder holds the tests that run without it."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_GenerateFromScript()

    def test_GenerateFromScript(self):
        """A painted heart becomes a CT volume on the geometry of its segmentation."""
        self.delayDisplay("Starting the test")
        try:
            ensure_torch()
        except SynthesisFailed as error:
            self.delayDisplay(f"Skipped: {error}")
            return
        geometry = Geometry.from_spacing((4, 24, 24), (3.0, 3.0, 5.0))
        painted = np.zeros(geometry.shape, np.uint8)
        painted[:, 4:20, 4:20] = 1
        segmentation = scene.labelmap_to_segmentation(LabelMap(painted, geometry, (Segment(1, "heart"),)), "Painted")

        logic = CTSynthesisLogic()
        try:
            volume = logic.generate(segmentation)
        finally:
            logic.close()
        self.assertEqual(volume.GetNodeReference(scene.SEGMENTATION_ROLE), segmentation)
        self.assertEqual(volume.GetAttribute("CTSynthesis.Synthetic"), "1")
        self.assertTrue(scene.geometry_of_node(volume).agrees_with(geometry))
        heart = slicer.util.arrayFromVolume(volume)[painted > 0]
        self.assertTrue(-50 < heart.mean() < 250, f"mean of the heart: {heart.mean()} HU")
        self.delayDisplay("Test passed")
