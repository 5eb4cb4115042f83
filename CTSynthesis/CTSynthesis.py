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

from CTSynthesisLib import modelstore, scene, views
from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.panel.choice import Choice
from CTSynthesisLib.panel.compare import CompareSection
from CTSynthesisLib.panel.dependencies import ensure_torch
from CTSynthesisLib.panel.engines import announce_what_is_missing
from CTSynthesisLib.panel.export import ExportSection
from CTSynthesisLib.panel.generate import GenerateSection, estimate, summary
from CTSynthesisLib.panel.inputs import SegmentTable
from CTSynthesisLib.panel.model import ModelSelector
from CTSynthesisLib.panel.note import Notes
from CTSynthesisLib.panel.outputs import MAXIMUM_SEED, OutputsSection
from CTSynthesisLib.panel.preview import PreviewSection
from CTSynthesisLib.panel.quality import QualitySection
from CTSynthesisLib.panel.review import ReviewSection
from CTSynthesisLib.panel.runner import GENERATE, Runner, details
from CTSynthesisLib.panel.sample_data import register_sample_data
from CTSynthesisLib.panel.shortcuts import Shortcuts
from CTSynthesisLib.panel.worker import WorkerSection
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Geometry, LabelMap, Segment
from CTSynthesisLib.worker import Cancelled


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
        self._previewed = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(str(CTSynthesisLib.RESOURCES / "UI" / "CTSynthesis.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTSynthesisLogic()
        self.runner = runner = self.logic.runner
        runner.listener = self

        phases = {"plain": _("Plain"), "arterial": _("Arterial"), "portal": _("Portal venous")}
        self.phase = Choice(ui.phaseSelector, phases, lambda phase: self.choose("phase", phase))
        self.segmentTable = SegmentTable(ui.segmentTable, ui.segmentsLabel, self.onCorrected)
        self.modelSelector = ModelSelector(ui, lambda: modelstore.models(), lambda name: self.choose("model", name))
        self.outputs = OutputsSection(ui, self.choose)
        self.previewSection = PreviewSection(ui.previewCheckBox, self.onStroke)
        self.generateSection = GenerateSection(ui.generateButton, ui.progressBar, ui.statusLabel, self.onGenerate, runner.cancel)
        self.quality = QualitySection(ui.resultCollapsibleButton, ui.qualityLabel, ui.qualityTable)
        self.review = ReviewSection(ui, self.onSimilarityWanted, self.onKeep, self.onUndo)
        self.compare = CompareSection(ui, lambda: (runner.history.last, runner.history.previous))
        self.exporting = ExportSection(ui, lambda: runner.history.last)
        self.workerSection = WorkerSection(ui, lambda: self.runner.session, self.choose)
        announce_what_is_missing(ui)
        self.notes = Notes()
        self.shortcuts = Shortcuts(uiWidget, self.generateSection.press, self.generateSection.cancel)
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
        self.previewSection.stop()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.close()
        self.shortcuts.remove()
        self.notes.remove()

    def enter(self):
        self.initializeParameterNode()
        self.notes.update()

    def exit(self):
        self.setParameterNode(None)
        self.shortcuts.enable(False, False)

    def onSceneStartClose(self, caller, event):
        self.runner.cancel()
        self.runner.preview.end()
        self.runner.history.clear()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        self.quality.clear()
        self.review.forget()
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
        parameters = self._parameterNode
        self.observeSegmentation(parameters.segmentation if parameters else None)
        if parameters:
            self.modelSelector.show(parameters.model)
            self.phase.show(parameters.phase)
            self.outputs.show(parameters.outside)
            self.workerSection.show(parameters.device)
        self.updateSegmentTable()
        self.followPreview()

    def choose(self, parameter, value):
        setattr(self._parameterNode, parameter, value)

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
        self.previewSection.painted()

    def updateSegmentTable(self):
        parameters = self._parameterNode
        if parameters:
            self.segmentTable.show(parameters.segmentation, parameters.structureNames, parameters.hounsfield, parameters.phase)
        else:
            self.segmentTable.show(None, {}, {})
        self.updateButtons()

    def updateButtons(self):
        problem, last, busy = self.problem(), self.runner.history.last, self.runner.kind is not None
        self.generateSection.allow(problem)
        segmentation = self._parameterNode.segmentation if self._parameterNode else None
        geometry = scene.geometry_of_segmentation(segmentation) if segmentation and not problem else None
        self.ui.estimateLabel.text = estimate(geometry, self.runner.voxels_a_second, self.runner.session.worker.device)
        self.previewSection.allow(self.modelSelector.card(self._parameterNode.model) if self._parameterNode else None, problem)
        self.review.allow(last, busy)
        self.compare.update()
        self.exporting.update()
        self.workerSection.update()
        self.shortcuts.enable(bool(self.parent.isEntered), self.runner.kind is not None)

    def problem(self):
        """Why Generate is disabled, or an empty string."""
        if not self._parameterNode or not self._parameterNode.segmentation:
            return _("Select a segmentation")
        if not scene.visible_segments(self._parameterNode.segmentation):
            return _("No segment is visible; show or paint those that shall be generated")
        parameters = self._parameterNode
        return self.modelSelector.problem(parameters.model) or self.outputs.problem(parameters.segmentation, parameters.outside)

    def onCorrected(self, names, hounsfield):
        self._parameterNode.structureNames = {**self.hidden(self._parameterNode.structureNames), **names}
        self._parameterNode.hounsfield = {**self.hidden(self._parameterNode.hounsfield), **hounsfield}

    def hidden(self, corrections):
        """Those corrections that belong to segments which are not shown at the moment."""
        shown = {segment.name for _id, segment in scene.visible_segments(self._parameterNode.segmentation)}
        return {name: value for name, value in corrections.items() if name not in shown}

    def request(self):
        parameters, (_names, hounsfield) = self._parameterNode, self.segmentTable.corrections
        inside = "anatomy" if parameters.fillIn else "plain"
        return Request(model=parameters.model, seed=parameters.seed, hu=hounsfield or None, phase=parameters.phase, inside=inside,
                       outside=parameters.outside, device=parameters.device)  # fmt: skip

    def onGenerate(self):
        self.generateSection.running()
        slicer.app.processEvents()  # show it: reading a large segmentation takes a moment
        self.attempt(GENERATE, lambda: self.runner.generate(
            self._parameterNode.segmentation, self.request(), self._parameterNode.outputVolume, self.segmentTable.corrections[0]))  # fmt: skip

    def attempt(self, kind, begin):
        try:
            ensure_torch()
            begin()
        except Exception as error:  # whatever it is, the panel must be usable again
            self.onFailed(kind, error)

    # -- live preview ------------------------------------------------------------------------------------------------------------

    def followPreview(self, like=None):
        """Begin or end the preview as the box says; choices that change the whole picture begin it anew."""
        parameters = self._parameterNode
        wanted = parameters is not None and parameters.livePreview and not self.problem()
        choice = (parameters.segmentation, self.request(), self.segmentTable.corrections[0]) if wanted else None
        if choice == self._previewed and like is None:
            return
        if self.runner.kind is not None and wanted:
            return  # once the worker is free
        self._previewed = choice
        if not wanted:
            self.runner.preview.end()
            return
        self.ui.statusLabel.text = _("Preparing the live preview …")
        self.attempt("preview", lambda: self.runner.begin_preview(*choice, like=like))

    def onStroke(self):
        if self.runner.preview.active:
            self.runner.preview.touched()
        elif self.runner.kind is None:  # its worker had given its memory back
            self._previewed = None
            self.followPreview()

    # -- what the runner tells ---------------------------------------------------------------------------------------------------

    def onProgress(self, kind, fraction, stage):
        if kind == GENERATE:
            self.generateSection.progress(fraction, stage)

    def onGenerated(self, volumeNode):
        self.generateSection.done(summary(self.runner.result, volumeNode.GetName()))
        self.quality.clear(_("Measuring the structures …"))
        self.review.forget()
        self.compare.reset()
        self.notes.update()
        self.updateButtons()
        self.followPreview(like=volumeNode)

    def onReport(self, rows):
        if self.runner.history.last:
            self.quality.show(self.runner.history.last.GetName(), rows)

    def onPreview(self):
        preview = self.runner.preview
        text = _("Live preview: slices follow the brush.")
        if preview.latency is not None:
            text = _("Live preview: the last stroke took {milliseconds} ms.").format(milliseconds=round(1000 * preview.latency))
        self.ui.statusLabel.text = text
        if self._previewed is not None and self.runner.kind is None:
            self.followPreview()

    def onSimilarity(self, similarity):
        self.review.show(similarity)

    def onWorker(self):
        self.updateButtons()

    def onFailed(self, kind, error):
        if kind == GENERATE and isinstance(error, Cancelled):
            self.generateSection.done(_("Cancelled; nothing was added to the scene."))
        elif kind == GENERATE:
            self.generateSection.done(str(error))
        elif not isinstance(error, Cancelled):
            self.ui.statusLabel.text = str(error)
        if not isinstance(error, UnusableInput | Cancelled):
            slicer.util.errorDisplay(str(error), windowTitle=_("CT Synthesis"), detailedText=details(error))
        self.updateButtons()

    # -- the last result ---------------------------------------------------------------------------------------------------------

    def onSimilarityWanted(self):
        self.attempt("audit", lambda: self.runner.begin_audit(self.runner.history.last))

    def onKeep(self):
        self.runner.history.last.SetAttribute("CTSynthesis.Kept", "1")
        self.updateButtons()

    def onUndo(self):
        name = self.runner.history.last.GetName()
        if node := self.runner.history.undo():
            views.show(node)
        self.quality.clear()
        self.review.forget()
        self.compare.reset()
        self.ui.statusLabel.text = _("The run that made “{name}” was undone.").format(name=name)
        self.updateButtons()


class _Listener:
    """What a script that does not wait hears of its run."""

    def __init__(self, progress, completed):
        self._progress, self._completed = progress, completed

    def onProgress(self, kind, fraction, stage):
        if self._progress:
            self._progress(fraction, stage)

    def onGenerated(self, volumeNode):
        if self._completed:
            self._completed(volumeNode, None)

    def onFailed(self, kind, error):
        if self._completed:
            self._completed(None, error)

    def __getattr__(self, name):  # the rest is for a panel
        return lambda *arguments: None


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

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.runner = Runner()

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
        self.runner.listener = _Listener(progress, completed)
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
