"""The examples of docs/scripting.md, run as they stand there."""

import re
from pathlib import Path

import pytest
import slicer
import slicer.util

from CTSynthesisLib.files import read_volume, write_segmentation
from Testing.phantom import thorax

PAGE = (Path(__file__).parents[1] / "docs" / "scripting.md").read_text(encoding="utf-8")


def examples(section):
    """The Python of a section, in order."""
    text = PAGE[PAGE.index(f"## {section}") :]
    return re.findall(r"```python\n(.*?)```", text[: text.find("\n## ", 3) if "\n## " in text[3:] else None], re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the examples are run in, with two segmentations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "segmentations").mkdir()
    for number in (1, 2):
        write_segmentation(thorax(shape=(4, 24, 28), spacing=(12.0, 12.0, 15.0)), tmp_path / "segmentations" / f"case{number}.seg.nrrd")
    return tmp_path


def test_generating_and_exporting(the_module, here, a_segmentation_node, capsys):
    waiting, not_waiting = examples("In 3D Slicer's Python console")
    names = {}
    exec(waiting, names)
    assert read_volume(here / "synthetic.nrrd").geometry.agrees_with(
        read_volume(here / "synthetic-dicom").geometry, tolerance=1e-2
    ) and "Thorax synthetic CT" in capsys.readouterr().out
    before = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
    exec(not_waiting, names)
    runner = names["logic"].runner
    while runner.kind is not None:
        slicer.app.processEvents()
    assert "Generating was cancelled" in capsys.readouterr().out
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == before
    names["logic"].close()


@pytest.mark.parametrize(
    ("section", "suffix"),
    [("A folder of segmentations, in 3D Slicer", "-ct.nrrd"), ("A folder of segmentations, without 3D Slicer", "-engine.nrrd")],
)
def test_a_folder(the_module, a_scene, here, section, suffix):
    (code,) = examples(section)
    exec(code, {})
    assert sorted(path.name for path in (here / "segmentations").glob("*" + suffix)) == [f"case1{suffix}", f"case2{suffix}"]
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_the_preview(here):
    (code,) = examples("The live preview from a script")
    names = {"Path": Path}
    exec(code, names)
    assert names["start"][0] == 2 and names["hu"].shape[0] == 1
