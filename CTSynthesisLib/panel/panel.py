"""The panel as a whole: its sections, the choices that they show, and what happens when something has come of a run."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .. import modelstore, scene, surfaces, views
from ..errors import UnusableInput
from ..runner import GENERATE, PREVIEW, Listener, details
from ..synthesis.request import Request
from ..worker import Cancelled
from .choice import Choice
from .compare import CompareSection
from .dependencies import NoTorch, ensure_torch
from .export import ExportSection
from .generate import GenerateSection, estimate, summary
from .inputs import SegmentTable
from .model import ModelSelector
from .nodule import NoduleSection
from .note import Notes
from .outputs import OutputsSection
from .preview import PreviewSection
from .quality import QualitySection
from .review import ReviewSection
from .shortcuts import Shortcuts
from .style import StyleSection
from .volume import VolumeSection
from .wording import said
from .worker import WorkerSection


class Panel(Listener):
    """Shows the choices of a parameter node, changes them, and lets the runner do what they ask for.

    Parameters
    ----------
    ui : the panel's widgets
    runner : Runner
    widget : QWidget
        The outermost one.
    """

    def __init__(self, ui, runner, widget):
        super().__init__()
        self.ui, self.runner, self.parameters = ui, runner, None
        self._entered, self._previewed = False, None
        phases = {"plain": _("Plain"), "arterial": _("Arterial"), "portal": _("Portal venous")}
        self.phase = Choice(ui.phaseSelector, phases, lambda phase: self._choose("phase", phase))
        self.segments = SegmentTable(ui.segmentTable, ui.segmentsLabel, self._on_corrected)
        self.model = ModelSelector(ui, lambda: modelstore.models(), lambda name: self._choose("model", name))
        self.outputs = OutputsSection(ui, self._choose)
        self.preview = PreviewSection(ui.previewCheckBox, self._on_stroke)
        self.generating = GenerateSection(ui.generateButton, ui.progressBar, ui.statusLabel, self._on_generate, runner.cancel)
        self.quality = QualitySection(ui.qualityLabel, ui.qualityTable)
        self.review = ReviewSection(ui, self._on_similarity_wanted, self._on_keep, self._on_undo)
        self.compare = CompareSection(ui, lambda: (runner.history.last, runner.history.previous))
        self.exporting = ExportSection(ui, lambda: runner.history.last)
        self.worker = WorkerSection(ui, lambda: runner.session, self._choose)
        self.style = StyleSection(ui, ui.segmentationSelector.currentNode, lambda: self.parameters.seed)
        self.volume = VolumeSection(ui, lambda: self.parameters)
        self.nodule = NoduleSection(ui, lambda: self.parameters, self._choose)
        self.jobs = (self.style, self.nodule, self.volume)
        self.notes = Notes()
        self.shortcuts = Shortcuts(widget, self.generating.press, self.generating.cancel)
        runner.listener = self

    def show(self, parameters):
        """Show the choices of a parameter node, or of none."""
        self.parameters = parameters
        if parameters:
            self.model.show(parameters.model)
            self.phase.show(parameters.phase)
            self.outputs.show(parameters.outside)
            self.worker.show(parameters.device)
            self.nodule.show(parameters)
        self.update()
        self._follow_preview()

    def enter(self, entered):
        """The module was opened, or another one."""
        self._entered = entered
        self.notes.update()
        self.update_buttons()

    def painted(self):
        """The segmentation is being changed."""
        self.runner.painted()
        if self.parameters and self.parameters.livePreview:
            self.preview.painted()

    def forget(self):
        """The scene is about to close: a run is cancelled, and nothing is left to compare or undo."""
        self.runner.cancel()
        for section in self.jobs:
            section.forget()
        surfaces.forget()
        self.runner.preview.end()
        self.runner.history.clear()
        self.quality.clear()
        self.review.forget()
        self.update_buttons()

    def close(self):
        self.preview.stop()
        for section in self.jobs:
            section.close()
        self.shortcuts.remove()
        self.notes.remove()

    def update(self):
        """Follow the segmentation."""
        parameters = self.parameters
        if parameters:
            self.segments.show(parameters.segmentation, parameters.structureNames, parameters.hounsfield, parameters.phase)
        else:
            self.segments.show(None, {}, {})
        self.update_buttons()

    def update_buttons(self):
        """Enable what can be done now; what cannot says why."""
        parameters, problem, busy = self.parameters, self.problem(), self.runner.kind is not None
        self.generating.allow(problem)
        geometry = None if problem else scene.geometry_of_segmentation(parameters.segmentation)
        self.ui.estimateLabel.text = "" if problem else estimate(geometry, self.runner.voxels_a_second, self.runner.session.worker.device)
        self.preview.allow(self.model.card(parameters.model) if parameters else None, problem)
        self.review.allow(self.runner.history.last, busy)
        self.compare.update()
        self.exporting.update()
        self.worker.update()
        for section in self.jobs:
            section.update()
        self.shortcuts.enable(self._entered, busy)

    def problem(self) -> str:
        """Why nothing can be generated, or an empty string."""
        parameters = self.parameters
        if not parameters or not parameters.segmentation:
            return _("Select a segmentation")
        if not scene.visible_segments(parameters.segmentation):
            return _("No segment is visible; show or paint those that shall be generated")
        return self.model.problem(parameters.model) or self.outputs.problem(parameters.segmentation, parameters.outside)

    def request(self) -> Request:
        parameters, (_names, hounsfield) = self.parameters, self.segments.corrections
        inside = "anatomy" if parameters.fillIn else "plain"
        return Request(model=parameters.model, seed=parameters.seed, hu=hounsfield or None, phase=parameters.phase, inside=inside,
                       outside=parameters.outside, device=parameters.device)  # fmt: skip

    def _choose(self, parameter, value):
        if self.parameters and getattr(self.parameters, parameter) != value:
            setattr(self.parameters, parameter, value)

    def _on_corrected(self, names, hounsfield):
        self.parameters.structureNames = {**self._hidden(self.parameters.structureNames), **names}
        self.parameters.hounsfield = {**self._hidden(self.parameters.hounsfield), **hounsfield}

    def _hidden(self, corrections):
        """Those corrections that belong to segments which are not shown at the moment."""
        shown = {segment.name for _id, segment in scene.visible_segments(self.parameters.segmentation)}
        return {name: value for name, value in corrections.items() if name not in shown}

    def _on_generate(self):
        self.generating.running()
        slicer.app.processEvents()  # show it: reading a large segmentation takes a moment
        names, output = self.segments.corrections[0], self.parameters.outputVolume
        self._attempt(GENERATE, lambda: self.runner.generate(self.parameters.segmentation, self.request(), output, names))

    def _attempt(self, kind, begin):
        try:
            ensure_torch()
            begin()
        except Exception as error:  # whatever it is, the panel must be usable again
            self.on_failed(kind, error)

    # -- live preview ------------------------------------------------------------------------------------------------------------

    def _follow_preview(self, like=None):
        """Begin or end the preview as the box says; a choice that changes the whole picture begins it anew.

        ``like`` is a volume node that was generated from what is to be previewed.
        """
        wanted = self.parameters is not None and self.parameters.livePreview and not self.problem()
        choice = (self.parameters.segmentation, self.request(), self.segments.corrections[0]) if wanted else None
        if choice == self._previewed and like is None:
            return
        if not wanted:
            self._previewed = None
            self.runner.preview.end()
        elif self.runner.kind is None:  # else once the worker is free, see on_worker
            self._previewed = choice
            self.ui.statusLabel.text = _("Preparing the live preview …")
            self._attempt(PREVIEW, lambda: self.runner.begin_preview(*choice, like=like))

    def _on_stroke(self):
        if self.runner.preview.active and not self.runner.preview.outdated:
            self.runner.preview.touched()
        else:  # its worker had given its memory back, or there is a segment that it does not know
            self._previewed = None
            self.update()
            self._follow_preview()

    # -- what the runner tells ---------------------------------------------------------------------------------------------------

    def on_progress(self, kind, fraction, stage):
        if kind == GENERATE:
            self.generating.progress(fraction, stage)
        elif kind == PREVIEW:
            self.ui.statusLabel.text = _("Preparing the live preview: {stage} …").format(stage=stage)

    def on_generated(self, volume_node):
        self.generating.done(summary(self.runner.result, volume_node.GetName()))
        self.quality.clear(_("Measuring the structures …"))
        self.review.forget()
        self.compare.reset()
        self.notes.update()
        self.update_buttons()
        if not self.runner.preview.active:  # it gave way to this run
            self._previewed = None
        self._follow_preview(like=volume_node if self.runner.current else None)

    def on_report(self, rows):
        if last := self.runner.history.last:
            self.quality.show(last.GetName(), rows)

    def on_preview(self):
        self.notes.update()
        if self.generating.state == "ready":
            latency = self.runner.preview.latency
            text = _("Live preview: slices follow the brush.")
            if latency is not None:
                text = _("Live preview: the last stroke took {milliseconds} ms.").format(milliseconds=round(1000 * latency))
            self.ui.statusLabel.text = text
        if self._previewed is None:  # a segment came while it was starting
            self._follow_preview()

    def on_similarity(self, similarity):
        self.review.show(similarity)

    def on_worker(self):
        if self.parameters and self.runner.preview.deleted:
            self.parameters.livePreview = False
        self.update_buttons()
        self._follow_preview()

    def on_failed(self, kind, error):
        if kind == GENERATE:
            cancelled = _("Cancelled; nothing was added to the scene.")
            self.generating.done(cancelled if isinstance(error, Cancelled) else said(error))
        elif not isinstance(error, Cancelled):
            self.ui.statusLabel.text = said(error)
        if not isinstance(error, UnusableInput | Cancelled | NoTorch):
            slicer.util.errorDisplay(said(error), windowTitle=_("CT Synthesis"), detailedText=details(error))
        self.update_buttons()

    # -- the last result ---------------------------------------------------------------------------------------------------------

    def _on_similarity_wanted(self):
        self._attempt("audit", lambda: self.runner.begin_audit(self.runner.history.last))

    def _on_keep(self):
        self.runner.history.last.SetAttribute("CTSynthesis.Kept", "1")
        self.update_buttons()

    def _on_undo(self):
        name = self.runner.history.last.GetName()
        if node := self.runner.history.undo():
            views.show(node)
        self.quality.clear()
        self.review.forget()
        self.compare.reset()
        self.ui.statusLabel.text = _("The run that made “{name}” was undone.").format(name=name)
        self.update_buttons()
