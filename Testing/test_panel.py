"""The module and its panel on the test host: real MRML scene, real Qt, stand-ins for the application (see Testing/host)."""

import subprocess
import sys
import time
import types

import numpy as np
import pytest
import slicer
import slicer.util

from CTSynthesisLib import modelstore
from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.session import Session
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.worker import Worker
from CTSynthesisLib.worker.transport import PipeTransport
from Testing.panel_state import events_until, nodes, row_of, volumes
from Testing.phantom import thorax

SEGMENT, STRUCTURE, HOW, HU = range(4)


@pytest.fixture(autouse=True)
def two_model_cards(monkeypatch):
    """Cards in place of the store's, so that these tests do not depend on which models ship."""
    rest = {"kind": "slab_gan", "version": "1", "sha256": "", "bytes": 0, "network": {}, "hu_map": {}}
    cards = [
        modelstore.ModelCard(name="default", title="Default", description="Draws everything.", limits=["Adults only."], **rest),
        modelstore.ModelCard(name="habijan2022", title="Habijan 2022", description="As published.", **rest),
    ]
    monkeypatch.setattr(modelstore, "models", lambda: cards)


@pytest.fixture
def a_session_with(monkeypatch):
    """A function that makes a session whose worker runs a stand-in engine."""
    sessions = []

    def make(engine):
        sessions.append(Session(Worker(PipeTransport(engine=f"Testing.worker.standin_engine:{engine}"))))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def a_panel_with(the_panel, a_session_with, a_segmentation_node):
    """The panel with the small thorax chosen and a stand-in engine."""

    def make(engine):
        the_panel.logic.session = a_session_with(engine)
        the_panel.ui.segmentationSelector.setCurrentNode(a_segmentation_node)
        return the_panel

    return make


# -- what the panel shows ------------------------------------------------------------------------------------------------------------


def test_the_panel_opens_and_closes(the_module, a_scene):
    import slicer_app

    widget = slicer_app.open_panel(the_module[0], "CTSynthesis")
    assert widget.ui.generateButton.text == "Generate"
    widget.cleanup()
    widget.parent.deleteLater()
    slicer_app.settle()


def test_the_module_introduces_itself(the_module):
    parent = the_module[1]
    assert parent.title == "CT Synthesis" and parent.categories == ["Image Synthesis"]
    assert parent.helpText and parent.acknowledgementText and parent.contributors
    assert not parent.icon.isNull()


def test_generate_says_why_it_is_disabled(the_panel, a_scene):
    button = the_panel.ui.generateButton
    assert not button.enabled and button.toolTip == "Select a segmentation"


def test_generate_is_enabled_once_everything_is_chosen(a_panel_with, a_segmentation_node):
    ui = a_panel_with("draw").ui
    assert ui.generateButton.enabled
    a_segmentation_node.GetDisplayNode().SetAllSegmentsVisibility(False)
    events_until(lambda: not ui.generateButton.enabled)
    assert "No segment is visible" in ui.generateButton.toolTip


def test_the_only_segmentation_is_chosen_on_entering(a_scene, a_segmentation_node, the_panel):
    assert the_panel.ui.segmentationSelector.currentNode() is a_segmentation_node


def test_the_table_says_how_each_segment_was_understood(a_panel_with, a_segmentation_node):
    a_segmentation_node.GetSegmentation().AddEmptySegment("", "Segment_7")
    ui = a_panel_with("draw").ui
    assert ui.segmentTable.rowCount == 7
    assert row_of(ui.segmentTable, 1)[:3] == ["lung_left", "Left lung", "code"]
    assert float(ui.segmentTable.item(1, HU).text()) < -700
    assert ui.segmentTable.item(6, HOW).text() == "⚠ assumed"
    assert not ui.segmentTable.item(1, HOW).font().italic() and ui.segmentTable.item(6, HOW).font().italic()
    assert "Not understood: Segment_7" in ui.segmentsLabel.text


def test_the_table_follows_the_segmentation(a_panel_with, a_segmentation_node):
    table = a_panel_with("draw").ui.segmentTable
    a_segmentation_node.GetSegmentation().GetNthSegment(3).SetName("liver")
    a_segmentation_node.GetSegmentation().GetNthSegment(3).RemoveTag("TerminologyEntry")
    events_until(lambda: row_of(table, 3)[:2] == ["liver", "Liver"])
    a_segmentation_node.GetSegmentation().RemoveSegment(a_segmentation_node.GetSegmentation().GetNthSegmentID(3))
    events_until(lambda: table.rowCount == 5)


def test_corrections_are_kept_in_the_parameter_node_and_can_be_undone(a_panel_with):
    panel = a_panel_with("draw")
    table, parameters = panel.ui.segmentTable, panel._parameterNode
    table.item(3, STRUCTURE).setText("spleen")
    assert parameters.structureNames == {"heart": "spleen"} and row_of(table, 3)[1:3] == ["Spleen", "you"]
    table.item(3, HU).setText("130")
    assert parameters.hounsfield == {"heart": 130.0} and row_of(table, 3)[HU] == "130"
    table.item(3, STRUCTURE).setText("")
    table.item(3, HU).setText("")
    assert parameters.structureNames == {} and parameters.hounsfield == {} and row_of(table, 3)[1:3] == ["Heart", "code"]


def test_unknown_structures_and_numbers_are_refused_in_words(a_panel_with):
    panel = a_panel_with("draw")
    panel.ui.segmentTable.item(3, STRUCTURE).setText("flux capacitor")
    assert "'flux capacitor' is not a structure" in panel.ui.segmentsLabel.text
    panel.ui.segmentTable.item(3, HU).setText("warm")
    assert "not a Hounsfield value" in panel.ui.segmentsLabel.text
    assert panel._parameterNode.structureNames == {} and row_of(panel.ui.segmentTable, 3)[1] == "Heart"


def test_corrections_of_hidden_segments_are_kept(a_panel_with, a_segmentation_node):
    panel = a_panel_with("draw")
    panel.ui.segmentTable.item(3, HU).setText("130")
    a_segmentation_node.GetDisplayNode().SetSegmentVisibility(a_segmentation_node.GetSegmentation().GetNthSegmentID(3), False)
    events_until(lambda: panel.ui.segmentTable.rowCount == 5)
    panel.ui.segmentTable.item(1, HU).setText("-700")
    assert panel._parameterNode.hounsfield == {"heart": 130.0, "lung_left": -700.0}


def test_the_model_shows_its_card(the_panel):
    ui = the_panel.ui
    assert ui.modelDescriptionLabel.text == "Draws everything." and ui.modelLimitsLabel.text == "Limits: Adults only."
    ui.modelSelector.setCurrentIndex(1)
    assert the_panel._parameterNode.model == "habijan2022" and ui.modelDescriptionLabel.text == "As published."


def test_a_model_that_is_not_installed_is_named(a_panel_with):
    panel = a_panel_with("draw")
    panel._parameterNode.model = "atlantis"
    assert not panel.ui.generateButton.enabled and "“atlantis” is not installed" in panel.ui.generateButton.toolTip


def test_the_dice_button_rolls_another_seed(the_panel):
    the_panel.ui.diceButton.click()
    seed = the_panel._parameterNode.seed
    assert seed > 0 and the_panel.ui.seedSpinBox.value == seed


def test_choices_survive_saving_and_loading_the_scene(a_panel_with, tmp_path):
    panel = a_panel_with("draw")
    panel.ui.seedSpinBox.setValue(41)
    panel.ui.modelSelector.setCurrentIndex(1)
    panel.ui.segmentTable.item(3, HU).setText("130")
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(False)
    assert panel._parameterNode.seed == 0
    slicer.mrmlScene.Import()
    assert (panel._parameterNode.seed, panel._parameterNode.model) == (41, "habijan2022")
    assert panel._parameterNode.hounsfield == {"heart": 130.0}
    assert panel.ui.seedSpinBox.value == 41 and panel.ui.modelSelector.currentIndex == 1


NOT_A_CHOICE = {"fadeSlider", "remoteCheckBox", "accessEdit"}  # what the views show; what is asked for anew; a setting of the user's


def inputs_of(ui):
    """``{name: (get, set)}`` of every widget that takes a choice; what is got can be compared across scenes."""
    ways = {
        "QComboBox": ("currentIndex", lambda w: w.setCurrentIndex(w.count - 1)),
        "QCheckBox": ("checked", lambda w: w.setChecked(not w.checked)),
        "QSpinBox": ("value", lambda w: w.setValue(w.minimum + 3)),
        "QDoubleSpinBox": ("value", lambda w: w.setValue(w.minimum + 1.5)),
        "QSlider": ("value", lambda w: w.setValue(w.minimum + 3)),
        "QLineEdit": ("text", lambda w: w.setText("lung, heart")),
        "qMRMLNodeComboBox": (None, lambda w: w.setCurrentNode(slicer.mrmlScene.GetFirstNodeByClass(w.nodeTypes[-1]))),
    }
    for name, widget in vars(ui).items():
        if widget.className() in ways and name not in NOT_A_CHOICE:
            value, change = ways[widget.className()]
            yield name, widget, (lambda w=widget, v=value: getattr(w, v) if v else w.currentNode() and w.currentNode().GetName()), change


def test_every_choice_is_saved_with_the_scene_and_comes_back(a_panel_with, tmp_path):
    panel = a_panel_with("draw")
    slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="CT")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Places")
    before, chosen = {}, {}
    for name, widget, get, change in inputs_of(panel.ui):
        before[name] = get()
        change(widget)
    chosen = {name: get() for name, _widget, get, _change in inputs_of(panel.ui)}
    assert [name for name in chosen if chosen[name] == before[name]] == ["segmentationSelector"]  # there is one
    assert len(chosen) > 22
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(False)
    assert {name: get() for name, _w, get, _c in inputs_of(panel.ui)} == {**before, "segmentationSelector": None}
    slicer.mrmlScene.Import()
    assert {name: get() for name, _w, get, _c in inputs_of(panel.ui)} == chosen


# -- generating ----------------------------------------------------------------------------------------------------------------------


def test_generate_makes_a_new_volume_each_time(a_panel_with, a_segmentation_node, a_labelmap):
    panel = a_panel_with("draw")
    ui = panel.ui
    ui.seedSpinBox.setValue(3)
    ui.generateButton.click()
    assert ui.generateButton.text == "Cancel" and ui.progressBar.visible
    events_until(lambda: volumes())
    (first,) = volumes()
    expected = 100 * a_labelmap.array.astype(int)
    assert np.abs(slicer.util.arrayFromVolume(first) - expected).max() < 100
    assert '"seed": 3' in first.GetAttribute("CTSynthesis.Request")
    assert ui.generateButton.text == "Generate" and ui.generateButton.enabled and not ui.progressBar.visible
    assert ui.statusLabel.text.startswith(f"“{first.GetName()}” generated in") and "Assumed: Nothing was" in ui.statusLabel.text
    ui.generateButton.click()
    events_until(lambda: len(volumes()) == 2)


def test_a_chosen_volume_is_overwritten(a_panel_with):
    panel = a_panel_with("draw")
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    panel.ui.outputSelector.setCurrentNode(chosen)
    panel.ui.generateButton.click()
    events_until(lambda: panel.ui.generateButton.text == "Generate")
    assert volumes() == [chosen] and chosen.GetImageData() is not None


@pytest.mark.parametrize("engine", ["obey", "ignore"])
def test_cancel_leaves_the_scene_as_it_was(a_panel_with, engine):
    panel = a_panel_with(engine)
    before = nodes()
    panel.ui.generateButton.click()
    events_until(lambda: "Working" in panel.ui.statusLabel.text)
    panel.ui.generateButton.click()
    assert not panel.ui.generateButton.enabled
    events_until(lambda: panel.ui.generateButton.text == "Generate", seconds=1.5)
    assert nodes() == before and "Cancelled" in panel.ui.statusLabel.text and panel.ui.generateButton.enabled


@pytest.mark.parametrize(("engine", "sentence"), [("refuse", "not to my liking"), ("stumble", "ZeroDivisionError"), ("crash", "exit code")])
def test_a_failure_is_a_sentence_and_leaves_the_scene_as_it_was(a_panel_with, engine, sentence):
    panel = a_panel_with(engine)
    before = nodes()
    panel.ui.generateButton.click()
    events_until(lambda: panel.ui.generateButton.text == "Generate")
    assert nodes() == before and sentence in panel.ui.statusLabel.text and panel.ui.generateButton.enabled


def test_closing_the_scene_during_a_run_adds_nothing_to_the_next_one(a_panel_with):
    panel = a_panel_with("obey")
    panel.ui.generateButton.click()
    events_until(lambda: "Working" in panel.ui.statusLabel.text)
    slicer.mrmlScene.Clear(False)
    events_until(lambda: panel.ui.generateButton.text == "Generate")
    assert volumes() == []


def test_leaving_slicer_during_a_run_ends_the_child(a_panel_with):
    panel = a_panel_with("ignore")
    panel.ui.generateButton.click()
    events_until(lambda: "Working" in panel.ui.statusLabel.text)
    process, folder = panel.logic.session.worker.transport.process, panel.logic.session.worker.transport.folder
    panel.cleanup()
    assert process.wait(timeout=3) is not None and not folder.exists()


def test_the_event_loop_keeps_running(a_panel_with):
    panel = a_panel_with("obey")
    panel.ui.generateButton.click()
    events_until(lambda: "Working" in panel.ui.statusLabel.text)
    longest, start = 0.0, time.monotonic()
    while time.monotonic() - start < 1:
        lap = time.monotonic()
        slicer.app.processEvents()
        longest = max(longest, time.monotonic() - lap)
        time.sleep(0.001)
    assert longest < 0.2


# -- the door for scripts ------------------------------------------------------------------------------------------------------------


def test_scripts_generate_and_wait(the_module, a_session_with, a_segmentation_node, tmp_path):
    logic = the_module[0].CTSynthesisLogic()
    logic.session = a_session_with("draw")
    stages = []
    node = logic.generate(
        a_segmentation_node, Request(seed=1), names={"heart": "liver"}, progress=lambda fraction, stage: stages.append(stage)
    )
    assert node.GetNodeReference("CTSynthesis.Segmentation") is a_segmentation_node
    assert [u.structure.name for u in logic.result.understood if u.segment.name == "heart"] == ["liver"]
    assert "Block 5 of 5" in stages
    logic.exportVolume(node, tmp_path / "ct.nrrd")
    assert (tmp_path / "ct.nrrd").stat().st_size > 0
    logic.exportDicom(node, tmp_path / "dicom")
    assert len(list((tmp_path / "dicom").iterdir())) == slicer.util.arrayFromVolume(node).shape[0]


def test_scripts_get_errors(the_module, a_session_with, a_scene):
    logic = the_module[0].CTSynthesisLogic()
    logic.session = a_session_with("draw")
    empty = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(UnusableInput, match="'Empty' has no segments"):
        logic.generate(empty)
    with pytest.raises(UnusableInput, match="No segmentation was given"):
        logic.generate(None)


def test_the_surroundings_come_from_the_source_volume_if_asked(the_module, a_session_with, a_scene):
    from CTSynthesisLib import scene
    from CTSynthesisLib.volume import Volume

    labelmap = thorax(shape=(8, 24, 28))
    segmentation = scene.labelmap_to_segmentation(labelmap)
    logic = the_module[0].CTSynthesisLogic()
    logic.session = a_session_with("draw")
    with pytest.raises(UnusableInput, match="has no source volume"):
        logic.generate(segmentation, Request(outside="reference"))
    ct = scene.volume_node_from(Volume(np.full(labelmap.array.shape, -321, np.int16), labelmap.geometry))
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    result = slicer.util.arrayFromVolume(logic.generate(segmentation, Request(outside="reference")))
    assert (result[labelmap.array == 0] == -321).all()


def test_the_modules_own_test_passes_with_the_real_engine(the_module, a_scene, monkeypatch):
    monkeypatch.undo()  # the real models
    the_module[0].CTSynthesisTest().runTest()


# -- PyTorch -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_torch(the_module, monkeypatch):
    from CTSynthesisLib.panel import dependencies

    monkeypatch.setattr(dependencies.importlib.util, "find_spec", lambda name: None)


def test_without_torch_and_extension_one_sentence_says_what_to_install(a_panel_with, no_torch):
    panel = a_panel_with("draw")
    panel.ui.generateButton.click()
    assert "install the PyTorch extension" in panel.ui.statusLabel.text and panel.ui.generateButton.text == "Generate"
    assert volumes() == []


@pytest.fixture
def answer(the_module):
    """A function that clicks a button of the next dialog, and a list of what the dialogs said."""
    import qt

    said, timers = [], []

    def click(text):
        def look():
            if (box := slicer.app.activeModalWidget()) is not None:
                timers.pop().stop()
                said.append(f"{box.text} {box.informativeText}")
                next(button for button in box.buttons() if button.text == text).click()

        timer = qt.QTimer()
        timer.setInterval(10)
        timer.timeout.connect(look)
        timer.start()
        timers.append(timer)

    return click, said


@pytest.mark.parametrize("button", ["Install", "Not now"])
def test_torch_is_installed_with_consent_only(no_torch, monkeypatch, answer, button):
    from CTSynthesisLib.panel.dependencies import ensure_torch

    installed = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            installed.append(torchVersionRequirement)
            return types.ModuleType("torch")

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    click, said = answer
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda app: False)
    click(button)
    if button == "Not now":
        with pytest.raises(SynthesisFailed, match="click again to be asked again"):
            ensure_torch()
    else:
        ensure_torch()
    assert installed == ([">=2.4"] if button == "Install" else [])
    assert "GB to download" in said[0] and "Without internet" in said[0]


def press_every_run(panel):
    """Click Generate, Style, Volume and Nodule with all that they need; what each of them says then."""
    ui = panel.ui
    ct = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="CT")
    ui.styleSelector.setCurrentNode(ct)
    ui.noduleVolumeSelector.setCurrentNode(ct)
    said = []
    for button, label in ((ui.generateButton, ui.statusLabel), (ui.styleButton, ui.styleStatusLabel),
                          (ui.volumeButton, ui.volumeStatusLabel), (ui.noduleInjectButton, ui.noduleStatusLabel)):  # fmt: skip
        text = button.text
        button.click()
        said.append(label.text)
        assert button.enabled and button.text == text, "it is not usable again"
    assert not any(section.busy for section in panel.panel.jobs) and panel.logic.runner.kind is None
    return said


@pytest.fixture
def an_installation_that_fails(no_torch, monkeypatch):
    def install(**_):
        raise subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "light_the_torch", "install", "torch>=2.4"])

    logic = types.SimpleNamespace(installTorch=install)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic))


def test_a_failing_installation_is_one_sentence_in_every_section(a_panel_with, an_installation_that_fails, monkeypatch):
    from CTSynthesisLib.panel import dependencies

    monkeypatch.setattr(dependencies, "ask_to_install", lambda: True)
    said = press_every_run(a_panel_with("draw"))
    assert len(set(said)) == 1 and said[0].startswith("PyTorch could not be installed; see that there is internet")
    assert "light_the_torch" not in said[0]


def test_while_the_application_is_tested_nobody_is_asked(a_panel_with, an_installation_that_fails):
    assert set(press_every_run(a_panel_with("draw"))) == {"PyTorch was not installed, so nothing was made; click again to be asked again."}


@pytest.mark.parametrize(("version", "fits"), [("2.3.1+cpu", False), ("1.13.0", False), ("2.4.0", True), ("2.10.0a0+git", True)])
def test_a_torch_that_is_too_old_is_refused_and_said(a_panel_with, monkeypatch, version, fits):
    import importlib.metadata

    from CTSynthesisLib.panel.dependencies import ensure_torch

    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if fits:
        ensure_torch()
    else:
        said = press_every_run(a_panel_with("draw"))
        assert len(set(said)) == 1 and f"PyTorch {version} is installed, but 2.4 or later is needed" in said[0]


def test_dialogs_belong_to_the_main_window(a_panel_with, monkeypatch, tmp_path):
    import qt

    window, asked = qt.QMainWindow(), []
    ui = a_panel_with("draw").ui
    ui.generateButton.click()
    events_until(lambda: ui.generateButton.text == "Generate")
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        monkeypatch.setattr(qt.QFileDialog, name, lambda *arguments: asked.append(arguments[0]) or "")
    buttons = [ui.exportNrrdButton, ui.exportNiftiButton, ui.exportDicomButton, ui.importModelButton]
    for button in buttons:
        button.click()
    assert asked == []  # the application is tested: nobody would answer
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda app: False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda verbose=True: window)
    for button in buttons:
        button.click()
    assert asked == [window] * 4


def test_the_question_belongs_to_the_main_window(the_module, monkeypatch, answer):
    import qt

    from CTSynthesisLib.panel import dialogs

    window, parents = qt.QMainWindow(), []
    genuine = qt.QMessageBox
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda app: False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda verbose=True: window)
    monkeypatch.setattr(genuine, "exec_", lambda box: parents.append(box.parent()) or genuine.exec(box))
    answer[0]("Yes")
    assert dialogs.agreed("Now?", "Or never.", yes="Yes", no="No") and parents == [window]


def test_samples_are_offered_with_their_checksums(the_module, monkeypatch):
    import hashlib
    from urllib.request import urlopen

    offered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **arguments: offered.append(arguments))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer.app.startupCompleted.emit()
    bundled, chest = offered
    with urlopen(bundled["uris"]) as file:
        assert bundled["checksums"] == "SHA256:" + hashlib.sha256(file.read()).hexdigest()
    assert chest["uris"].endswith(chest["checksums"].removeprefix("SHA256:"))  # Slicer stores its samples under their checksums
