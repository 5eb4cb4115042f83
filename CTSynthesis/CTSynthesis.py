import logging
import random
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
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

from CTSynthesisLib import modelstore, scene
from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.panel.dependencies import ensure_torch
from CTSynthesisLib.panel.generate import GenerateSection, summary
from CTSynthesisLib.panel.inputs import SegmentTable
from CTSynthesisLib.panel.model import ModelSelector
from CTSynthesisLib.panel.sample_data import register_sample_data
from CTSynthesisLib.session import Generated, Session
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Geometry, LabelMap, Segment
from CTSynthesisLib.worker import Cancelled, Progress

MAXIMUM_SEED = 2**31 - 1


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
    model - Name of the model.
    seed - Chooses the random texture.
    outputVolume - The volume to overwrite; none for a new one at each run.
    """

    segmentation: vtkMRMLSegmentationNode
    structureNames: dict[str, str]
    hounsfield: dict[str, float]
    model: str = "default"
    seed: Annotated[int, WithinRange(0, MAXIMUM_SEED)] = 0
    outputVolume: vtkMRMLScalarVolumeNode


class CTSynthesisWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Wires the sections of the panel to the parameter node and the logic."""

    SEGMENTATION_EVENTS = (
        slicer.vtkSegmentation.SegmentAdded,
        slicer.vtkSegmentation.SegmentRemoved,
        slicer.vtkSegmentation.SegmentModified,
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

        self.segmentTable = SegmentTable(ui.segmentTable, ui.segmentsLabel, self.onCorrected)
        self.modelSelector = ModelSelector(ui.modelSelector, ui.modelDescriptionLabel, modelstore.models(), self.onModelChosen)
        self.generateSection = GenerateSection(ui.generateButton, ui.progressBar, ui.statusLabel, self.onGenerate, self.logic.cancel)
        ui.diceButton.connect("clicked(bool)", self.onDice)
        # painting changes a segmentation many times a second; the table follows when the events are through
        self.segmentTableTimer = qt.QTimer()
        self.segmentTableTimer.setSingleShot(True)
        self.segmentTableTimer.setInterval(100)
        self.segmentTableTimer.connect("timeout()", self.updateSegmentTable)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """Called when the module is reloaded and when the application closes."""
        self.segmentTableTimer.stop()
        if self._parameterNode and self._parameterNodeGuiTag is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
        self._parameterNode = self._parameterNodeGuiTag = None
        self.removeObservers()
        self.logic.close()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)

    def onSceneStartClose(self, caller, event):
        self.logic.cancel()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Make sure that the parameter node exists and is observed; select the only segmentation to save a click."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            if self._parameterNodeGuiTag is not None:
                self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if parameterNode:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.onParametersChanged()

    def onParametersChanged(self, caller=None, event=None):
        self.observeSegmentation(self._parameterNode.segmentation if self._parameterNode else None)
        if self._parameterNode:
            self.modelSelector.show(self._parameterNode.model)
        self.updateSegmentTable()

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
        self.segmentTableTimer.start()

    def updateSegmentTable(self):
        parameters = self._parameterNode
        if parameters:
            self.segmentTable.show(parameters.segmentation, parameters.structureNames, parameters.hounsfield)
        else:
            self.segmentTable.show(None, {}, {})
        self.generateSection.allow(self.problem())

    def problem(self):
        """Why Generate is disabled, or an empty string."""
        if not self._parameterNode or not self._parameterNode.segmentation:
            return _("Select a segmentation")
        if not scene.visible_segments(self._parameterNode.segmentation):
            return _("No segment is visible; show or paint those that shall be generated")
        return self.modelSelector.problem(self._parameterNode.model)

    def onCorrected(self, names, hounsfield):
        self._parameterNode.structureNames = {**self.hidden(self._parameterNode.structureNames), **names}
        self._parameterNode.hounsfield = {**self.hidden(self._parameterNode.hounsfield), **hounsfield}

    def hidden(self, corrections):
        """Those corrections that belong to segments which are not shown at the moment."""
        shown = {segment.name for _id, segment in scene.visible_segments(self._parameterNode.segmentation)}
        return {name: value for name, value in corrections.items() if name not in shown}

    def onModelChosen(self, name):
        self._parameterNode.model = name

    def onDice(self, checked=False):
        self._parameterNode.seed = random.randrange(MAXIMUM_SEED)

    def onGenerate(self):
        names, hounsfield = self.segmentTable.corrections
        parameters = self._parameterNode
        request = Request(model=parameters.model, seed=parameters.seed, hu=hounsfield or None)
        self.generateSection.running()
        slicer.app.processEvents()  # show it: reading a large segmentation takes a moment
        try:
            ensure_torch()
            self.logic.generate(
                parameters.segmentation,
                request,
                parameters.outputVolume,
                names=names,
                progress=self.generateSection.progress,
                waitForCompletion=False,
                completed=self.onCompleted,
            )
        except Exception as error:  # whatever it is, the panel must be usable again
            self.onCompleted(None, error)

    def onCompleted(self, volumeNode, error):
        if error is None:
            self.generateSection.done(summary(self.logic.result, volumeNode.GetName()))
        elif isinstance(error, Cancelled):
            self.generateSection.done(_("Cancelled; nothing was added to the scene."))
        else:
            self.generateSection.done(str(error))
            if not isinstance(error, UnusableInput):
                details = "\n".join(getattr(error, "__notes__", []))
                slicer.util.errorDisplay(str(error), windowTitle=_("CT Synthesis"), detailedText=details)


class CTSynthesisLogic(ScriptedLoadableModuleLogic):
    """The door for scripts; no widget is needed.

    Example::

        from CTSynthesis import CTSynthesisLogic
        logic = CTSynthesisLogic()
        volumeNode = logic.generate(slicer.util.getNode("Segmentation"))
        logic.exportVolume(volumeNode, "synthetic.nrrd")
        logic.exportDicom(volumeNode, "synthetic-dicom")
        logic.close()
    """

    POLLING_INTERVAL_MS = 50

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.session = Session()
        self.result = None
        self._progress = self._completed = None
        self._timer = qt.QTimer()
        self._timer.setInterval(self.POLLING_INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)

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
            return self._finish(self.session.generate(segmentationNode, request, output=outputVolume, names=names, progress=progress))
        self.session.begin(segmentationNode, request, output=outputVolume, names=names)
        self._progress, self._completed = progress, completed
        self._timer.start()
        return None

    def cancel(self):
        """Cancel a run that was started without waiting; its ``completed`` is called with a Cancelled error."""
        self.session.cancel()

    def exportVolume(self, volumeNode, path):
        """Write a volume to NRRD, NIfTI or MHA so that it lies where it is seen (under transforms, a hardened copy)."""
        scene.export_volume(volumeNode, path)

    def exportDicom(self, volumeNode, folder):
        """Write a volume as a DICOM CT series that says that it is synthetic, into a new folder; no patient data goes into it."""
        return scene.export_dicom(volumeNode, folder)

    def close(self):
        """End the worker process. The next run starts a new one."""
        self._timer.stop()
        self.session.close()

    def _poll(self):
        try:
            news = self.session.poll()
        except Exception as error:  # the timer must not fire again, whatever it is
            self._timer.stop()
            if not isinstance(error, Cancelled):
                logging.error("CT Synthesis", exc_info=error)
            self._report(None, error)
            return
        if isinstance(news, Progress) and self._progress:
            self._progress(news.fraction, news.stage)
        elif isinstance(news, Generated):
            self._timer.stop()
            self._report(self._finish(news), None)

    def _finish(self, generated):
        self.result = generated.result
        scene.show_in_slice_views(generated.node)
        return generated.node

    def _report(self, volumeNode, error):
        completed, self._progress, self._completed = self._completed, None, None
        if completed:
            completed(volumeNode, error)


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
