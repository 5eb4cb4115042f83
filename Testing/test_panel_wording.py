"""The panel speaks of the panel: no flag of the command line, no command in backticks, no temporary path, whatever the engine says."""

import ast
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.scene import labelmap_to_segmentation, volume_node_from
from CTSynthesisLib.session import Session
from CTSynthesisLib.volume import Volume
from CTSynthesisLib.worker import Worker
from CTSynthesisLib.worker.transport import PipeTransport
from Testing.nodule_chest import chest_and_lungs
from Testing.panel_state import events_until, volumes
from Testing.phantom import hounsfield, thorax

LIBRARY = Path(__file__).parents[1] / "CTSynthesisLib"
FOREIGN = re.compile(r"(?<![\w-])--[a-z]|`|" + re.escape(tempfile.gettempdir()) + r"[/\\]|CTSynthesis-\w+-")
ENGINE = ("anatomy.py", "regions.py", "volume.py", "modelstore.py", "scene.py", "surfaces.py", "session.py", "live.py", "synthesis",
          "files", "networks", "worker", "evaluation/audit.py", "evaluation/report.py", "cli/__init__.py")  # fmt: skip
NEVER_IN_THE_PANEL = (  # what only somebody who types a command can bring about
    "'--reject-similar {",
    "'{self.prog} --help'",
    "The preset '{cohort.request.preset}' draws voxels",
    "'{cohort.folder}' holds a cohort already",
    "The preset '{request.preset}' ships without weights",
    "Port {port} of {host} cannot be used",
)


def sentences(file):
    """The strings of a file that have words, f-strings with the source of their fields; docstrings left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in parts or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [str(p.value) if isinstance(p, ast.Constant) else f"{{{ast.unparse(p.value)}}}" for p in pieces]
        if " " in (text := "".join(texts)) and not text.startswith("--"):  # a flag alone is an argument
            yield text


def test_every_way_out_of_the_engine_has_words_in_the_panel(the_module):
    from CTSynthesisLib.panel.wording import WAYS_OUT, said

    files = [file for name in ENGINE for file in ([LIBRARY / name] if name.endswith(".py") else sorted((LIBRARY / name).rglob("*.py")))]
    told = [text for file in files for text in sentences(file)]
    assert len(told) > 500 and sum(bool(FOREIGN.search(text)) for text in told) > 12
    for text in told:
        if FOREIGN.search(text) and not text.startswith(NEVER_IN_THE_PANEL):
            assert any(re.search(clause, text) for clause in WAYS_OUT), f"the panel has no words for: {text}"
            assert FOREIGN.search(said(text)) is None and not re.search(r"“[a-z-]+”=", said(text)), said(text)
    for clause in WAYS_OUT:
        assert any(re.search(clause, text) for text in told), f"nobody says {clause!r} any more"


def test_what_the_panel_itself_says_is_its_own(the_module):
    from CTSynthesisLib import RESOURCES

    panel = [text for file in sorted((LIBRARY / "panel").glob("*.py")) if file.stem != "wording" for text in sentences(file)]
    (offline,) = [text for text in panel if FOREIGN.search(text)]
    assert "--no-index" in offline  # to be typed into the Python console
    assert FOREIGN.search((RESOURCES / "UI" / "CTSynthesis.ui").read_text(encoding="utf-8")) is None
    raw = [file.name for file in (LIBRARY / "panel").glob("*.py") if "str(error)" in file.read_text(encoding="utf-8")]
    assert raw == ["wording.py"] or raw == []


# -- on the running panel ------------------------------------------------------------------------------------------------------------


def everything_said(ui):
    """All texts and tooltips of the panel, with those of the tables' cells."""
    for widget in vars(ui).values():
        for name in ("text", "toolTip", "placeholderText"):
            if (text := widget.property(name)) is not None:
                yield str(text)
        if widget.className() == "QTableWidget":
            cells = [widget.item(row, column) for row in range(widget.rowCount) for column in range(widget.columnCount)]
            yield from (f"{cell.text()} {cell.toolTip()}" for cell in cells if cell)


def assert_all_said_in_the_panels_words(widget):
    assert [text for text in everything_said(widget.ui) if FOREIGN.search(text)] == []


@pytest.mark.parametrize(("engine", "words"), [("assume", "double-click “Understood as”"), ("run_out_of_disk", "a temporary file")])
def test_what_was_assumed_and_what_failed(the_panel, a_segmentation_node, engine, words):
    a_segmentation_node.GetSegmentation().GetNthSegment(3).SetName("thingummy")
    a_segmentation_node.GetSegmentation().GetNthSegment(3).RemoveTag("TerminologyEntry")
    the_panel.logic.session = Session(Worker(PipeTransport(engine=f"Testing.worker.standin_engine:{engine}")))
    ui = the_panel.ui
    ui.segmentationSelector.setCurrentNode(a_segmentation_node)
    the_panel.panel.update()
    ui.generateButton.click()
    events_until(lambda: ui.generateButton.text == "Generate")
    events_until(lambda: ui.segmentTable.item(3, 1) and "double-click “Understood as”" in ui.segmentTable.item(3, 1).toolTip(), seconds=20)
    assert words in ui.statusLabel.text
    assert_all_said_in_the_panels_words(the_panel)


def test_a_place_outside_the_lungs(the_panel, a_scene):
    volume, _labels = chest_and_lungs()
    ui, node = the_panel.ui, volume_node_from(volume, kind="Chest")
    points = a_scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Places")
    points.AddControlPoint(*(volume.geometry.ijk_to_ras @ [1, 1, 1, 1])[:3])
    ui.noduleVolumeSelector.setCurrentNode(node)
    ui.nodulePlaceSelector.setCurrentNode(points)
    ui.noduleInjectButton.click()
    events_until(lambda: not the_panel.panel.nodule.busy)
    assert "tick “Also outside the lungs”" in ui.noduleStatusLabel.text
    assert_all_said_in_the_panels_words(the_panel)
    empty = volume_node_from(Volume(np.zeros_like(volume.array), volume.geometry), kind="Water")
    ui.noduleVolumeSelector.setCurrentNode(empty)
    ui.noduleInjectButton.click()
    events_until(lambda: not the_panel.panel.nodule.busy)
    assert ui.noduleStatusLabel.text
    assert_all_said_in_the_panels_words(the_panel)


def test_a_style_without_a_segmentation(the_panel, a_scene):
    labelmap, ui = thorax((6, 60, 70), (4.0, 4.0, 6.0)), the_panel.ui
    ct = volume_node_from(Volume(hounsfield(labelmap, None, 15), labelmap.geometry))
    ct.SetName("Somebody's CT")
    ui.segmentationSelector.setCurrentNode(labelmap_to_segmentation(labelmap, "Content segments"))
    ui.styleSelector.setCurrentNode(ct)
    ui.styleContentSelector.setCurrentNode(ct)
    ui.styleButton.click()
    events_until(lambda: not the_panel.panel.style.busy)
    said = ui.styleStatusLabel.text
    assert "“Somebody's CT” came without a segmentation; its tissue regions were found automatically." in said
    assert_all_said_in_the_panels_words(the_panel)
    (made,) = (node for node in volumes() if node is not ct)
    attributes = " ".join(str(made.GetAttribute(name)) for name in made.GetAttributeNames())
    assert tempfile.gettempdir() not in attributes and "style.nrrd" in attributes
    flat = volume_node_from(Volume(np.full(labelmap.array.shape, 3000, np.int16), labelmap.geometry))
    flat.SetName("Flat")
    ui.styleSelector.setCurrentNode(flat)
    ui.styleButton.click()
    events_until(lambda: not the_panel.panel.style.busy)
    assert "“Flat”" in ui.styleStatusLabel.text
    assert_all_said_in_the_panels_words(the_panel)


def test_commands_start_in_words_even_if_the_user_types_a_dash(the_panel, a_scene):
    labelmap, ui = thorax((6, 60, 70), (4.0, 4.0, 6.0)), the_panel.ui
    ui.segmentationSelector.setCurrentNode(labelmap_to_segmentation(labelmap, "Content segments"))
    ui.styleSelector.setCurrentNode(volume_node_from(Volume(hounsfield(labelmap, None, 15), labelmap.geometry)))
    ui.styleSegmentationSelector.setCurrentNode(ui.segmentationSelector.currentNode())
    ui.styleStructuresEdit.text = "--heartless"
    ui.styleButton.click()
    events_until(lambda: not the_panel.panel.style.busy)
    assert "no structure" in ui.styleStatusLabel.text
