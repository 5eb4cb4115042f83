"""What CMake installs is what is there: a file that is not listed is missing for every user, and no other test would notice."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def listed(text, keyword):
    """The files named after ``keyword`` in the call of slicerMacroBuildScriptedModule."""
    (call,) = re.findall(r"slicerMacroBuildScriptedModule\((.*?)\)", text, re.DOTALL)
    words = call.split()
    after = words[words.index(keyword) + 1 :]
    end = next((place for place, word in enumerate(after) if word.isupper()), len(after))
    return after[:end]


def present(folder, pattern):
    files = (ROOT / folder).rglob(pattern)
    return sorted(f.relative_to(ROOT).as_posix() for f in files if f.is_file() and not f.name.startswith(".") and f.suffix != ".part")


def test_every_file_of_the_library_is_listed():
    assert sorted(listed(TOP, "SCRIPTS")) == present("CTSynthesisLib", "*.py")


def test_every_resource_is_listed():
    assert sorted(listed(TOP, "RESOURCES")) == present("Resources", "*")


def test_nothing_is_listed_twice():
    names = listed(TOP, "SCRIPTS") + listed(TOP, "RESOURCES")
    assert len(names) == len(set(names))


def test_the_module_folder_holds_the_module_and_nothing_else():
    # Slicer takes every Python file in a module folder for a module
    assert present("CTSynthesis", "*[!c]") == ["CTSynthesis/CMakeLists.txt", "CTSynthesis/CTSynthesis.py"]
    assert listed((ROOT / "CTSynthesis" / "CMakeLists.txt").read_text(encoding="utf-8"), "SCRIPTS") == ["CTSynthesis.py"]


@pytest.mark.parametrize("key", ["EXTENSION_HOMEPAGE", "EXTENSION_DESCRIPTION", "EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_the_extensions_index_can_read_the_metadata(key):
    # its checks read these with a regular expression: one line, quoted
    (value,) = re.findall(rf'^set\({key} "([^"\n]+)"\)$', TOP, re.MULTILINE)
    assert "?" not in value
    if path := re.search(r"/SlicerCTSynthesis/main/(.+)$", value):
        assert (ROOT / path[1]).is_file(), f"{key} names a file that is not there"


def test_the_project_has_the_name_of_the_extension():
    assert re.search(r"^project\(CTSynthesis\)$", TOP, re.MULTILINE)
    assert "set(EXTENSION_DEPENDS PyTorch)" in TOP


def test_the_panel_connects_each_mrml_widget_to_the_scene():
    ui = ElementTree.parse(ROOT / "Resources" / "UI" / "CTSynthesis.ui").getroot()
    needing = {w.get("name") for w in ui.iter("widget") if w.get("class").startswith("qMRML")} - {"CTSynthesis"}
    connected = {c.findtext("receiver") for c in ui.iter("connection") if c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"}
    assert needing == connected
