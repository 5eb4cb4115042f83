"""The application: trame-slicer's segmentation app with this library's scene adapter, worker and live preview."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import slicer
from slicer import vtkSegmentation
from trame.app import TrameApp, asynchronous
from trame.app.file_upload import ClientFile
from trame_slicer import module as trame_slicer_module
from trame_slicer.app.logic import SegmentationAppLogic
from trame_slicer.app.ui import SegmentationAppUI
from trame_slicer.core import SlicerApp
from trame_slicer.segmentation import SegmentationOpacityEnum

from .. import anatomy, scene, views
from ..errors import UnusableInput
from ..note import SyntheticNote
from ..runner import GENERATE, PREVIEW, Listener, Runner
from ..synthesis.request import Request
from ..volume import AIR_HU, LabelMap, Volume
from ..worker import Cancelled
from .panel import GeneratePanel
from .uploads import understand_upload

POLL_SECONDS = 0.02
GATHER_SECONDS = 0.04


class Workbench(TrameApp, Listener):
    """One segmentation, its CT if there is one, four views, and the panel.

    Parameters
    ----------
    labelmap : LabelMap
        What to begin with.
    ct : Volume, optional
        The CT that it was made on.
    """

    def __init__(self, labelmap: LabelMap, ct: Volume | None = None, *, model="default", server=None):
        TrameApp.__init__(self, server)
        Listener.__init__(self)
        self.server.enable_module(trame_slicer_module)
        self.app = SlicerApp()
        slicer.mrmlScene = self.app.scene
        self.model = model
        self._logic = SegmentationAppLogic(self.server, self.app)
        self._ui = SegmentationAppUI(self.server, self._logic.layout_manager)
        self._add_panel()
        # trame-slicer clears the scene before it has read anything
        self._logic._load_files_logic._load_volume_files = self._uploaded
        self._logic.set_ui(self._ui)
        self.runner = Runner(lambda: None, lambda: None, fit=False)
        self.runner.listener = self
        self._notes = []
        self._load(labelmap, ct)
        self.panel.typed.bind_changes({
            self.panel.typed.name.fade: self._on_faded,
            (self.panel.typed.name.live, self.panel.typed.name.seed, self.panel.typed.name.outside, self.panel.typed.name.phase):
                lambda *_: self._update(),
        })  # fmt: skip
        self.server.state["trame__title"] = "CT Synthesis workbench"
        self.server.controller.on_server_ready.add(lambda **_: asynchronous.create_task(self._poll()))

    @property
    def data(self):
        return self.panel.typed.data

    def close(self):
        """End the worker."""
        self.runner.close()

    # -- what is shown -----------------------------------------------------------------------------------------------------------

    def _add_panel(self):
        with self._ui.layout as layout:  # entered again, so that it is sent to the browser with what is added here
            layout.title.set_text("CT Synthesis workbench: synthetic images, not for clinical use")
            with layout.drawer:
                self.panel = GeneratePanel(self, v_if=(self._ui._is_tool_active(GeneratePanel),))
                self._ui.tool_registry[GeneratePanel] = self.panel
            with layout.toolbar:
                self._ui._create_tool_button("CT synthesis", "mdi-creation", GeneratePanel)

    def _uploaded(self, files: list[dict]):
        """Files from the browser: read beside what is shown, which stays as it is unless they can take its place."""
        if self.data.running:
            self.data.status = "A run is under way; cancel it or wait, then upload again."
            return
        try:
            with TemporaryDirectory() as folder:
                for file in map(ClientFile, files):
                    (Path(folder) / Path(file.name).name).write_bytes(file.content)
                labelmap, ct = understand_upload(Path(folder))
            self._take(labelmap, ct, ", ".join(Path(ClientFile(file).name).name for file in files[:3]))
        except Exception as error:  # whatever it is, what is shown stays
            self.data.status = f"Nothing was changed. {error}"
        self.state.flush()

    def _take(self, labelmap, ct, name):
        """Show what was uploaded, with what is shown already where both are on one grid."""
        said = f"“{name}” is shown."
        grid = scene.geometry_of_node(self.ct) if self.ct is not None else None
        if ct is None and grid is not None and grid.agrees_with(labelmap.geometry):
            ct = scene.volume_in_world(self.ct)
        elif labelmap is None:
            try:
                labelmap = scene.labelmap_from_segmentation(self.segmentation)
            except UnusableInput:  # nothing is painted
                labelmap = None
            if labelmap is None or not ct.geometry.agrees_with(labelmap.geometry):
                labelmap = LabelMap(np.zeros(ct.geometry.shape, np.uint16), ct.geometry, ())
                said += " The segmentation did not lie on its grid and was taken away: paint on it, or upload its segmentation."
        elif ct is not None and not ct.geometry.agrees_with(labelmap.geometry):
            raise UnusableInput("The segmentation and the CT lie on different grids; upload those that belong together.")
        self._load(labelmap, ct)
        self.data.status = said

    def _load(self, labelmap, ct):
        self.runner.preview.end()
        self.runner.history.clear()
        for note in self._notes:
            note.remove()
        self._notes, self._previewed, self._painted_at = [], None, None
        self.data.live, self.data.report, self.data.fade = False, [], 0
        self.app.scene.Clear()  # before anything is added: it makes the effects' pipelines anew, now that the views exist
        if ct is None:
            understood = anatomy.understand(labelmap.segments)
            table = np.full(max([0, *(u.segment.value for u in understood)]) + 1, AIR_HU, np.int16)
            for u in understood:
                table[u.segment.value] = round(u.mean_hu)
            self.ct, name = None, "Expected values"
            volume = Volume(table[labelmap.array], labelmap.geometry)
        else:
            name, volume = "CT", ct
        node = scene.volume_node_from(volume)
        node.SetName(name)
        self.ct = node if ct is not None else None
        self.segmentation = scene.labelmap_to_segmentation(labelmap, "Segmentation")
        if ct is not None:
            self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(node)
        self.app.display_manager.show_volume(node, vr_preset="", do_reset_views=True)
        if rendering := self.app.volume_rendering.get_vr_display_node(node):
            rendering.SetVisibility(False)
        # filled label maps hide the image behind them here (VTK draws them opaque), so segments are shown by their outlines
        self._logic._segment_editor_logic.data.segment_display.opacity_mode = SegmentationOpacityEnum.OUTLINE
        self._logic._on_volume_changed(node)
        self._logic._volume_properties_logic.on_volume_changed(node)
        self._logic._segment_editor_logic.on_volume_changed(node)
        for event in (vtkSegmentation.SegmentAdded, vtkSegmentation.SegmentRemoved, vtkSegmentation.SegmentModified,
                      vtkSegmentation.SourceRepresentationModified):  # fmt: skip
            self.segmentation.AddObserver(event, self._on_painted)
        composites = {composite.GetLayoutName(): composite for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
        for view in self.app.view_manager.get_slice_views():
            composite = composites[view.get_view_node().GetLayoutName()]
            self._notes.append(SyntheticNote(view.first_renderer(), composite, view.schedule_render))
        self._ui.data.active_tool, self._ui.data.is_drawer_visible = GeneratePanel.__name__, True
        self._update()

    def _update(self):
        """Follow the segmentation and the choices."""
        segments = [segment for _, segment in scene.visible_segments(self.segmentation)]
        self.data.structures = [
            {"name": u.segment.name, "structure": u.structure.title, "hu": round(u.mean_hu), "assumed": u.how == "not understood",
             "note": u.note or ""}
            for u in anatomy.understand(segments, phase=self.data.phase)
        ]  # fmt: skip
        self.data.problem = "" if segments else "No segment is visible; show or paint those that shall be generated."
        if self.data.outside == "reference" and self.ct is None:
            self.data.problem = "There is no CT to take the surroundings from; start the workbench with --ct."
        self.data.can_undo = self.runner.history.last is not None
        self.data.can_compare = self.runner.history.previous is not None
        self._follow_preview()

    def request(self) -> Request:
        return Request(model=self.model, seed=max(int(self.data.seed or 0), 0), outside=self.data.outside, phase=self.data.phase)

    # -- what the user does ------------------------------------------------------------------------------------------------------

    def press(self):
        """Generate, or Cancel."""
        if self.data.running:
            self.runner.cancel()
            self.data.status = "Cancelling …"
            return
        self.data.running, self.data.progress, self.data.status = True, 0.0, "Reading the segmentation …"
        self.state.flush()
        try:
            self.runner.generate(self.segmentation, self.request())
        except Exception as error:  # whatever it is, the panel must be usable again
            self.on_failed(GENERATE, error)

    def undo(self):
        node = self.runner.history.undo()
        views.show(node or self.ct)
        self.data.report, self.data.fade = [], 0
        self._update()

    def swap(self):
        self.data.fade = 0 if self.data.fade >= 50 else 100

    def export(self):
        """Write the last result to the folder where the workbench was started, never over another file."""
        node = self.runner.history.last
        if node is None:
            self.data.status = "There is nothing to save yet; press Generate first."
            return
        path, number = Path.cwd() / f"{node.GetName().replace(' ', '-')}.nrrd", 1
        while path.exists():
            number += 1
            path = path.with_stem(f"{node.GetName().replace(' ', '-')}-{number}")
        try:
            scene.export_volume(node, path)
            self.data.status = f"Written to {path}."
        except (UnusableInput, OSError) as error:
            self.data.status = str(error)

    def _on_faded(self, percent):
        if self.runner.history.previous is not None:
            views.compare(self.runner.history.last, self.runner.history.previous, int(percent) / 100)

    def _on_painted(self, *_):
        self.runner.painted()
        if self._painted_at is None:
            self._painted_at = asyncio.get_event_loop().time()

    # -- beside the event loop ---------------------------------------------------------------------------------------------------

    async def _poll(self):
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with self.state:
                if self._painted_at is not None and asyncio.get_event_loop().time() - self._painted_at > GATHER_SECONDS:
                    self._painted_at = None
                    if (not self.runner.preview.active or self.runner.preview.outdated) and self.runner.kind is None:
                        self._previewed = None  # its worker had given its memory back, has failed, or lacks a segment: begin anew
                    self._update()
                    self.runner.preview.touched()
                self.runner.poll()

    def _follow_preview(self):
        wanted = bool(self.data.live and not self.data.problem)
        choice = self.request() if wanted else None
        if choice == self._previewed:
            return
        if not wanted:
            self._previewed = None
            self.runner.preview.end()
            views.show(self.runner.history.last or self.ct)
        elif self.runner.kind is None:
            self._previewed = choice
            self.data.status = "Preparing the live preview …"
            last = self.runner.history.last
            try:
                self.runner.begin_preview(self.segmentation, choice, like=last if self._fresh(last, choice) else None)
            except Exception as error:  # whatever it is, the panel must be usable again
                self.on_failed(PREVIEW, error)

    def _fresh(self, node, request):
        """Whether a result is what this request would give: nothing was painted since."""
        return node is not None and self.runner.current and node.GetAttribute("CTSynthesis.Request") == request.to_json()

    def on_progress(self, kind, fraction, stage):
        if kind == GENERATE:
            self.data.progress = fraction
        self.data.status = f"{stage[:1].upper()}{stage[1:]} …"

    def on_generated(self, volume_node):
        result = self.runner.result
        lines = [f"“{volume_node.GetName()}” generated in {result.seconds:.1f} s on {result.device.upper()}.", *result.assumptions]
        self.data.running, self.data.status, self.data.fade, self.data.report = False, " ".join(lines), 0, []
        self._previewed = None
        self._update()

    def on_report(self, rows):
        rows = sorted(rows, key=lambda row: (not row.off, -row.volume_ml))
        self.data.report = [
            {"name": row.segment, "expected": f"{row.expected_hu:.0f} ± {row.expected_sd:.0f}",
             "measured": "–" if row.volume_ml == 0 else f"{row.median_hu:.0f}", "spread": "–" if row.volume_ml == 0 else f"{row.sd_hu:.0f}",
             "off": row.off}
            for row in rows
        ]  # fmt: skip

    def on_preview(self):
        self.data.slices += 1
        latency = self.runner.preview.latency
        if not self.data.running:
            done = "slices follow the brush" if latency is None else f"the last stroke took {1000 * latency:.0f} ms"
            self.data.status = f"Live preview: {done}."

    def on_failed(self, kind, error):
        self.data.running = False
        self.data.status = "Cancelled; nothing was added to the scene." if isinstance(error, Cancelled) else str(error)
        self._update()
