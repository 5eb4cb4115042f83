"""The panel's sections beyond Generate: live preview, quality report, keep and undo, compare, export, models, worker, keyboard."""

import dataclasses
import shutil

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib import modelstore, scene, views
from CTSynthesisLib.session import Session
from CTSynthesisLib.worker import Similarity, Worker
from CTSynthesisLib.worker.transport import PipeTransport
from Testing.panel_state import events_until, nodes, row_of, volumes
from Testing.synthesis.models import save_random_model
from Testing.test_live import paint


@pytest.fixture(scope="module")
def a_small_model(tmp_path_factory):
    """The real engine with a small network of random weights: quick, and all of the way is real."""
    return save_random_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def views_of(a_scene):
    """What the application's layout would have made: a slice view's nodes."""
    composite = a_scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetLayoutName("Red")
    return composite


@pytest.fixture
def a_panel(views_of, the_panel, a_segmentation_node, a_small_model, monkeypatch):
    """The panel with the small thorax and the small model chosen."""
    monkeypatch.setattr(modelstore, "models", lambda: [dataclasses.replace(a_small_model, name=a_small_model.path)])
    the_panel.panel.model.reload()
    the_panel.logic.session = Session(Worker(PipeTransport()))
    the_panel._parameterNode.model = a_small_model.path
    the_panel.ui.segmentationSelector.setCurrentNode(a_segmentation_node)
    return the_panel


@pytest.fixture
def a_drawing_panel(views_of, the_panel, a_segmentation_node):
    """The panel with a stand-in engine, which is quicker still."""
    the_panel.logic.session = Session(Worker(PipeTransport(engine="Testing.worker.standin_engine:draw")))
    the_panel.ui.segmentationSelector.setCurrentNode(a_segmentation_node)
    return the_panel


def generated(panel):
    count = len(volumes())
    panel.ui.generateButton.click()
    events_until(lambda: len(volumes()) == count + 1)
    return panel.logic.runner.history.last


def test_whatever_is_disabled_says_why(the_panel):
    import qt

    ui = vars(the_panel.ui)
    disabled = {name: widget for name, widget in ui.items() if isinstance(widget, qt.QWidget) and not widget.enabled}
    some = {"generateButton", "previewCheckBox", "undoButton", "swapButton", "exportDicomButton", "styleButton", "noduleEraseButton"}
    assert some <= set(disabled)
    assert [name for name, widget in disabled.items() if not widget.toolTip] == []


def test_before_a_run_its_cost_is_shown(a_drawing_panel):
    text = a_drawing_panel.ui.estimateLabel.text
    assert "28 × 24 × 8 voxels" in text and "GB of memory" in text


def test_the_live_preview_follows_the_brush(a_panel, a_segmentation_node, a_labelmap, views_of):
    ui = a_panel.ui
    ui.previewCheckBox.setChecked(True)
    events_until(lambda: a_panel.logic.runner.preview.node is not None, 30)
    preview = a_panel.logic.runner.preview
    assert views_of.GetBackgroundVolumeID() == preview.node.GetID()
    events_until(lambda: len(np.unique(slicer.util.arrayFromVolume(preview.node)[4])) > 10)  # no longer flat
    heart = a_segmentation_node.GetSegmentation().GetSegmentIdBySegmentName("heart")
    paint(a_segmentation_node, heart, (slice(4, 5), slice(4, 9), slice(4, 9)))
    before = slicer.util.arrayFromVolume(preview.node).copy()
    events_until(lambda: (slicer.util.arrayFromVolume(preview.node)[4] != before[4]).any())
    events_until(lambda: "the last stroke took" in ui.statusLabel.text)

    generated(a_panel)  # the preview begins anew from the result
    events_until(lambda: preview.node is not None and not preview.starting and a_panel.logic.runner.kind is None)
    assert np.array_equal(slicer.util.arrayFromVolume(preview.node), slicer.util.arrayFromVolume(a_panel.logic.runner.history.last))
    ui.previewCheckBox.setChecked(False)
    assert [node.GetName() for node in volumes()] == ["Thorax synthetic CT"]


@pytest.fixture
def a_previewing_panel(a_panel):
    """The panel with the live preview running and the slice that is looked at drawn."""
    a_panel.ui.previewCheckBox.setChecked(True)
    preview = a_panel.logic.runner.preview
    events_until(lambda: preview.node is not None, 30)
    events_until(lambda: len(np.unique(slicer.util.arrayFromVolume(preview.node)[4])) > 10)
    return a_panel


def middle_of(preview):
    return np.median(slicer.util.arrayFromVolume(preview.node)[4, 5:8, 5:8])


def test_the_live_preview_follows_what_is_painted_in_another_module(a_previewing_panel, a_segmentation_node):
    from slicer_app import come_back, leave

    panel, preview = a_previewing_panel, a_previewing_panel.logic.runner.preview
    node, before = preview.node, middle_of(preview)
    leave(panel)
    assert preview.node is node and not panel.panel.shortcuts._shortcuts[0].enabled
    spine = a_segmentation_node.GetSegmentation().GetSegmentIdBySegmentName("vertebrae")
    paint(a_segmentation_node, spine, (slice(4, 5), slice(4, 9), slice(4, 9)))
    events_until(lambda: middle_of(preview) > before + 100)
    come_back(panel)
    assert preview.node is node and panel.ui.previewCheckBox.checked and panel.panel.shortcuts._shortcuts[0].enabled
    paint(a_segmentation_node, spine, (slice(4, 5), slice(4, 9), slice(4, 9)), 0)
    events_until(lambda: middle_of(preview) < before + 100)
    assert preview.node is node
    panel.ui.previewCheckBox.setChecked(False)
    assert volumes() == [] and not preview.active


def test_a_segment_that_is_added_while_it_runs_is_drawn_too(a_previewing_panel, a_segmentation_node):
    from slicer_app import leave

    panel, preview = a_previewing_panel, a_previewing_panel.logic.runner.preview
    leave(panel)
    before, node = middle_of(preview), preview.node
    added = a_segmentation_node.GetSegmentation().AddEmptySegment("", "sternum")
    paint(a_segmentation_node, added, (slice(4, 5), slice(4, 9), slice(4, 9)))
    events_until(lambda: preview.node not in (None, node) and middle_of(preview) > before + 100)  # begun anew, as its worker has to know it
    assert "unexpected" not in panel.ui.statusLabel.text


def test_the_preview_ends_with_its_nodes_and_its_box_says_so(a_previewing_panel, a_segmentation_node):
    from slicer_app import come_back, leave

    panel, preview = a_previewing_panel, a_previewing_panel.logic.runner.preview
    leave(panel)
    slicer.mrmlScene.RemoveNode(preview.node)
    events_until(lambda: not preview.active)
    assert not panel._parameterNode.livePreview
    come_back(panel)
    assert not panel.ui.previewCheckBox.checked
    panel.ui.previewCheckBox.setChecked(True)
    events_until(lambda: preview.node is not None, 30)
    leave(panel)
    slicer.mrmlScene.RemoveNode(a_segmentation_node)
    events_until(lambda: not preview.active)
    assert volumes() == []


def test_closing_the_scene_from_another_module_ends_the_preview(a_previewing_panel):
    from slicer_app import come_back, leave

    leave(a_previewing_panel)
    slicer.mrmlScene.Clear(False)
    assert not a_previewing_panel.logic.runner.preview.active and volumes() == []
    come_back(a_previewing_panel)
    assert not a_previewing_panel.ui.previewCheckBox.checked


def test_a_preview_that_is_starting_gives_way_to_generate(a_panel):
    ui, runner = a_panel.ui, a_panel.logic.runner
    ui.previewCheckBox.setChecked(True)
    assert runner.kind == "preview"
    ui.generateButton.click()
    events_until(lambda: ui.generateButton.text == "Generate" and runner.history.last is not None, 30)
    events_until(lambda: runner.preview.node is not None and runner.kind is None, 30)
    assert np.array_equal(slicer.util.arrayFromVolume(runner.preview.node), slicer.util.arrayFromVolume(runner.history.last))


@pytest.mark.parametrize("how", ["button", "scene"])
def test_a_run_that_waits_for_the_preview_can_be_cancelled(a_panel, how):
    ui, runner = a_panel.ui, a_panel.logic.runner
    ui.previewCheckBox.setChecked(True)
    ui.generateButton.click()
    if how == "button":
        ui.generateButton.click()
        a_panel._parameterNode.livePreview = False
    else:
        slicer.mrmlScene.Clear(False)
    events_until(lambda: ui.generateButton.text == "Generate" and runner.kind is None, 30)
    assert volumes() == [] and "Cancelled" in ui.statusLabel.text


def test_what_is_painted_during_a_run_is_not_taken_for_shown(a_panel, a_segmentation_node):
    ui, runner = a_panel.ui, a_panel.logic.runner
    ui.generateButton.click()
    heart = a_segmentation_node.GetSegmentation().GetSegmentIdBySegmentName("heart")
    paint(a_segmentation_node, heart, (slice(4, 5), slice(4, 9), slice(4, 9)))
    events_until(lambda: runner.history.last is not None and runner.kind is None, 30)
    assert not runner.current
    ui.previewCheckBox.setChecked(True)
    events_until(lambda: runner.preview.node is not None, 30)
    events_until(lambda: len(np.unique(slicer.util.arrayFromVolume(runner.preview.node)[4])) > 10)
    assert np.median(slicer.util.arrayFromVolume(runner.preview.node)[4, 5:8, 5:8]) > np.median(
        slicer.util.arrayFromVolume(runner.history.last)[4, 5:8, 5:8]
    ) + 100


def test_closing_the_scene_ends_the_preview(a_panel):
    a_panel.ui.previewCheckBox.setChecked(True)
    events_until(lambda: a_panel.logic.runner.preview.node is not None, 30)
    slicer.mrmlScene.Clear(False)
    assert not a_panel.logic.runner.preview.active and volumes() == []
    assert not a_panel.ui.previewCheckBox.checked


def test_models_that_see_whole_slices_have_no_preview(a_drawing_panel, a_small_model, monkeypatch):
    card = dataclasses.replace(a_small_model, name="default", title="Whole", receptive_field={})
    monkeypatch.setattr(modelstore, "models", lambda: [card])
    a_drawing_panel.panel.model.reload()
    a_drawing_panel.panel.update()
    assert not a_drawing_panel.ui.previewCheckBox.enabled and "sees whole slices" in a_drawing_panel.ui.previewCheckBox.toolTip


def test_the_quality_report_shows_what_is_off_first(a_drawing_panel):
    ui = a_drawing_panel.ui
    ui.resultCollapsibleButton.collapsed = False
    generated(a_drawing_panel)
    events_until(lambda: ui.qualityTable.rowCount == 6)
    assert "not as expected" in ui.qualityLabel.text and row_of(ui.qualityTable, 0)[0].startswith("⚠ ")
    assert row_of(ui.qualityTable, 5)[0] in ("body", "heart", "aorta", "vertebrae")


def test_what_comes_into_a_closed_section_is_there_when_it_opens(a_drawing_panel):
    ui = a_drawing_panel.ui
    assert ui.resultCollapsibleButton.collapsed
    generated(a_drawing_panel)
    events_until(lambda: ui.qualityTable.rowCount == 6)
    assert not ui.qualityTable.visible
    ui.resultCollapsibleButton.collapsed = False
    assert ui.qualityTable.visible and ui.qualityLabel.visible
    a_drawing_panel.panel.quality.clear()
    ui.resultCollapsibleButton.collapsed = True
    ui.resultCollapsibleButton.collapsed = False
    assert not ui.qualityTable.visible  # it has nothing to show


def test_undo_takes_the_last_run_back(a_drawing_panel, views_of):
    ui = a_drawing_panel.ui
    first = generated(a_drawing_panel)
    second = generated(a_drawing_panel)
    assert views_of.GetBackgroundVolumeID() == second.GetID()
    ui.undoButton.click()
    assert volumes() == [first] and views_of.GetBackgroundVolumeID() == first.GetID()
    ui.undoButton.click()
    assert volumes() == [] and not ui.undoButton.enabled and "first" in ui.undoButton.toolTip


def test_undo_brings_an_overwritten_volume_back(a_drawing_panel, a_labelmap):
    ui = a_drawing_panel.ui
    mine = slicer.util.addVolumeFromArray(np.full((3, 4, 5), 7, np.int16), name="Mine")
    mine.SetAttribute("note", "precious")
    ui.outputSelector.setCurrentNode(mine)
    ui.generateButton.click()
    events_until(lambda: ui.generateButton.text == "Generate" and mine.GetAttribute("CTSynthesis.Synthetic"))
    assert slicer.util.arrayFromVolume(mine).shape == a_labelmap.array.shape
    ui.undoButton.click()
    assert (slicer.util.arrayFromVolume(mine) == 7).all() and mine.GetAttribute("note") == "precious"
    assert mine.GetAttribute("CTSynthesis.Synthetic") is None and mine.GetNodeReference(scene.SEGMENTATION_ROLE) is None


def test_keep_marks_the_result(a_drawing_panel):
    node = generated(a_drawing_panel)
    a_drawing_panel.ui.keepButton.click()
    assert node.GetAttribute("CTSynthesis.Kept") == "1" and "kept already" in a_drawing_panel.ui.keepButton.toolTip


def test_compare_fades_and_swaps_in_all_views(a_drawing_panel, views_of):
    ui = a_drawing_panel.ui
    first = generated(a_drawing_panel)
    assert not ui.swapButton.enabled and "nothing else" in ui.swapButton.toolTip
    second = generated(a_drawing_panel)
    ui.swapButton.click()
    assert (views_of.GetForegroundVolumeID(), views_of.GetForegroundOpacity()) == (first.GetID(), 1.0)
    ui.fadeSlider.setValue(30)
    assert (views_of.GetBackgroundVolumeID(), views_of.GetForegroundOpacity()) == (second.GetID(), pytest.approx(0.3))
    third = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    ui.compareSelector.setCurrentNode(third)
    assert views_of.GetForegroundVolumeID() == third.GetID()
    generated(a_drawing_panel)
    assert ui.fadeSlider.value == 0 and views_of.GetForegroundVolumeID() is None


def test_export_writes_and_says_where(a_drawing_panel, tmp_path):
    generated(a_drawing_panel)
    export = a_drawing_panel.panel.exporting
    assert "was written to" in export.write(tmp_path / "ct.nrrd") and (tmp_path / "ct.nrrd").exists()
    assert "was written to" in export.write(tmp_path / "ct.nii.gz") and (tmp_path / "ct.nii.gz").exists()
    assert export.write(tmp_path / "dicom", dicom=True).startswith("8 DICOM images")
    assert "already holds files" in export.write(tmp_path / "dicom", dicom=True)
    assert "SYNTHETIC^CT" in a_drawing_panel.ui.exportLabel.text


def test_export_writes_over_no_file_that_a_node_was_loaded_from(a_drawing_panel, tmp_path, monkeypatch):
    import qt
    import slicer

    generated(a_drawing_panel)
    painted, export = tmp_path / "organs.seg.nrrd", a_drawing_panel.panel.exporting
    painted.write_text("painted for hours")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(painted))
    slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0].SetAndObserveStorageNodeID(storage.GetID())
    (tmp_path / "link.nrrd").symlink_to(painted)
    for path in (painted, tmp_path / "link.nrrd"):
        assert "would be lost" in export.write(path) and painted.read_text() == "painted for hours"
    (tmp_path / "other.nrrd").write_text("another scan")
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda app: False)
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "other"), raising=False)  # asked about "other"
    a_drawing_panel.ui.exportNrrdButton.click()
    assert "exists already" in a_drawing_panel.ui.exportLabel.text and (tmp_path / "other.nrrd").read_text() == "another scan"


def test_similarity_stands_beside_keep_and_discard(a_drawing_panel):
    generated(a_drawing_panel)
    events_until(lambda: a_drawing_panel.ui.similarityButton.enabled)
    a_drawing_panel.panel.on_similarity(Similarity(0.91, 0.75))
    assert "0.91 (limit 0.75)" in a_drawing_panel.ui.similarityLabel.text and "better discard" in a_drawing_panel.ui.similarityLabel.text
    a_drawing_panel.ui.similarityButton.click()  # the stand-in names no model
    assert "nothing to compare it with" in a_drawing_panel.ui.statusLabel.text


def test_models_are_imported_and_removed_in_the_panel(a_drawing_panel, a_small_model, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(modelstore, "IMPORTED", tmp_path / "mine")
    panel, ui = a_drawing_panel.panel, a_drawing_panel.ui
    panel.model.reload()
    panel.model.import_from(a_small_model.path)
    assert a_drawing_panel._parameterNode.model == "random" and ui.removeModelButton.enabled
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda *_, **__: True)
    ui.removeModelButton.click()
    assert a_drawing_panel._parameterNode.model == "default" and not ui.removeModelButton.enabled
    assert "belongs to the extension" in ui.removeModelButton.toolTip
    panel.model.import_from(tmp_path / "nothing.json")
    assert "cannot be read" in ui.modelDescriptionLabel.text


def test_memory_is_given_back_on_request(a_drawing_panel):
    ui = a_drawing_panel.ui
    generated(a_drawing_panel)
    events_until(lambda: ui.freeButton.enabled)
    process = a_drawing_panel.logic.session.worker.transport.process
    ui.freeButton.click()
    assert process.wait(timeout=3) is not None and not ui.freeButton.enabled and "not started" in ui.workerLabel.text
    generated(a_drawing_panel)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate with")
def test_a_worker_elsewhere_is_used_only_when_chosen(a_drawing_panel, tmp_path):
    from CTSynthesisLib.worker.remote import Server

    server, ui = Server(tmp_path, port=0, engine="Testing.worker.standin_engine:draw"), a_drawing_panel.ui
    try:
        assert "Nothing leaves this computer" in ui.remoteLabel.text and not ui.testButton.enabled
        ui.accessEdit.setText(str(server.access_file))
        ui.remoteCheckBox.setChecked(True)
        assert "are sent" in ui.remoteLabel.text
        ui.testButton.click()
        assert "Connected" in ui.remoteLabel.text
        generated(a_drawing_panel)
        assert f"127.0.0.1:{server.access.port}" in ui.workerLabel.text
        ui.remoteCheckBox.setChecked(False)
        assert isinstance(a_drawing_panel.logic.session.worker.transport, PipeTransport)
    finally:
        ui.accessEdit.setText("")
        server.close()


def test_ctrl_g_generates_and_esc_cancels(a_drawing_panel):
    a_drawing_panel.logic.session = Session(Worker(PipeTransport(engine="Testing.worker.standin_engine:obey")))
    ui, before = a_drawing_panel.ui, nodes()
    generate, cancel = a_drawing_panel.panel.shortcuts._shortcuts
    assert "Ctrl+G" in ui.generateButton.toolTip and not cancel.enabled
    generate.activated.emit()
    events_until(lambda: "Working" in ui.statusLabel.text)
    assert "Esc" in ui.generateButton.toolTip and cancel.enabled
    cancel.activated.emit()
    events_until(lambda: ui.generateButton.text == "Generate")
    assert nodes() == before and "Cancelled" in ui.statusLabel.text


def test_every_choice_survives_saving_and_loading(a_drawing_panel, tmp_path):
    ui, widget = a_drawing_panel.ui, a_drawing_panel
    ui.phaseSelector.setCurrentIndex(2)
    ui.outsideSelector.setCurrentIndex(2)
    ui.deviceSelector.setCurrentIndex(1)
    ui.insideCheckBox.setChecked(False)
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(False)
    assert widget.panel.request().phase == "plain"
    slicer.mrmlScene.Import()
    request = widget.panel.request()
    assert (request.phase, request.outside, request.device, request.inside) == ("portal", "air", "cpu", "plain")
    assert (ui.phaseSelector.currentIndex, ui.outsideSelector.currentIndex, ui.insideCheckBox.checked) == (2, 2, False)


@pytest.fixture
def conversions(monkeypatch):
    """How often surfaces were converted to voxels, one entry each."""
    made, genuine = [], slicer.vtkSegmentation

    class Counting(genuine):
        def CreateRepresentation(self, *arguments):
            made.append(arguments)
            return genuine.CreateRepresentation(self, *arguments)

    monkeypatch.setattr(slicer, "vtkSegmentation", Counting)
    return made


def test_surfaces_are_converted_to_generate_and_not_to_update_the_panel(a_drawing_panel, a_segmentation_node, conversions):
    segmentation, ui = a_segmentation_node.GetSegmentation(), a_drawing_panel.ui
    segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    a_drawing_panel.panel.update()
    assert "28 × 24 × 8 voxels" in ui.estimateLabel.text  # it says its grid
    grid = segmentation.GetConversionParameter("Reference image geometry")
    segmentation.SetConversionParameter("Reference image geometry", "")
    a_drawing_panel.panel.update()
    assert "turned into voxels when you generate" in ui.estimateLabel.text and ui.generateButton.enabled
    assert conversions == []
    segmentation.SetConversionParameter("Reference image geometry", grid)
    node = generated(a_drawing_panel)
    assert len(conversions) == 1 and len(np.unique(slicer.util.arrayFromVolume(node))) > 10
    generated(a_drawing_panel)
    assert len(conversions) == 1  # nothing has changed
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    generated(a_drawing_panel)
    assert len(conversions) == 2


def test_the_surroundings_need_a_ct(a_drawing_panel):
    a_drawing_panel.ui.outsideSelector.setCurrentIndex(1)
    assert not a_drawing_panel.ui.generateButton.enabled and "no CT to take" in a_drawing_panel.ui.generateButton.toolTip


def test_the_corner_says_synthetic_while_a_generated_volume_is_shown(a_drawing_panel, views_of):
    import vtk

    from CTSynthesisLib.note import SyntheticNote

    renderer, drawn = vtk.vtkRenderer(), []
    note = SyntheticNote(renderer, views_of, lambda: drawn.append(1))
    assert not note.visible
    node = generated(a_drawing_panel)
    assert note.visible and drawn
    ct = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    views.show(ct)
    assert not note.visible
    views.compare(ct, node, 0.5)
    assert note.visible
    note.remove()
    assert renderer.GetViewProps().GetNumberOfItems() == 0
