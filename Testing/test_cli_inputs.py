"""No command writes over what it reads: each input of each command, by its name and through links."""

import json
import os

import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Volume
from Testing.phantom import hounsfield, thorax

SMALL = thorax((6, 20, 24), (14.0, 14.0, 18.0))
INPUTS = {  # a command with every input that it may be given
    "generate": ["generate", "organs.nrrd", "--labels", "table.json", "--reference", "ct.nrrd", "--outside", "reference", "--match",
                 "match.nrrd", "--like", "like.nrrd"],
    "inject": ["nodule", "inject", "ct.nrrd", "--mask", "organs.nrrd", "--anywhere"],
    "erase": ["nodule", "erase", "ct.nrrd", "--mask", "organs.nrrd", "--anywhere"],
    "style": ["style", "--style", "ct.nrrd", "--style-segmentation", "drawn.seg.nrrd", "--segmentation", "organs.nrrd", "--content",
              "like.nrrd", "--labels", "table.json"],
    "regions": ["style", "--style", "ct.nrrd", "--style-regions", "drawn.seg.nrrd", "--content", "like.nrrd"],
    "perturb": ["perturb", "organs.nrrd", "--by", "3", "--labels", "table.json"],
    "segment": ["segment", "ct.nrrd"],
}  # fmt: skip
FILES = [(command, name) for command, words in INPUTS.items() for name in words
         if "." in name and (command == "generate" or not name.endswith(".json"))]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with all these inputs."""
    monkeypatch.chdir(tmp_path)
    write_segmentation(SMALL, tmp_path / "organs.nrrd")
    write_segmentation(SMALL, tmp_path / "drawn.seg.nrrd")
    names = {segment.name: segment.value for segment in SMALL.segments}
    (tmp_path / "table.json").write_text(json.dumps(names))
    (tmp_path / "organs.json").write_text(json.dumps(names))  # found by itself
    for name in ("ct", "match", "like"):
        write_volume(Volume(hounsfield(SMALL), SMALL.geometry), tmp_path / f"{name}.nrrd")
    return tmp_path


@pytest.fixture
def refused(folder, capfd):
    """Runs a command that has to be refused for what it would write over; returns the sentence."""

    def run(*argv):
        before = contents(folder)
        code, said = main([str(a) for a in argv]), capfd.readouterr().err
        assert contents(folder) == before, "something was written"
        assert (code, said.count("\n")) == (2, 1) and "input" in said, said
        return said

    return run


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "name"), FILES)
def test_an_input_is_no_output(refused, folder, command, name):
    if name.endswith(".json"):
        assert name in refused(*INPUTS[command], "-o", "out.nrrd", "--report", name)
    elif name.endswith(".seg.nrrd"):
        (folder / "link.nrrd").symlink_to(name)
        assert "link.nrrd" in refused(*INPUTS[command], "-o", "link.nrrd")
    else:
        assert name in refused(*INPUTS[command], "-o", name)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_an_input_is_no_output(refused, folder, link):
    link(folder / "ct.nrrd", folder / "another.nrrd")
    assert "another.nrrd" in refused("segment", "ct.nrrd", "-o", "another.nrrd")
    assert "ct.nrrd" in refused("segment", folder / "another.nrrd", "-o", "ct.nrrd")


def test_an_input_in_another_spelling_of_its_path(refused, folder):
    (folder / "sub").mkdir()
    assert "sub" in refused("segment", "ct.nrrd", "-o", folder / "sub" / ".." / "ct.nrrd")


def test_the_nodules_segmentation_beside_the_output(refused, folder):
    (folder / "drawn.seg.nrrd").rename(folder / "out.nodules.seg.nrrd")
    said = refused("nodule", "inject", "ct.nrrd", "--mask", "out.nodules.seg.nrrd", "-o", "out.nrrd", "--anywhere")
    assert "out.nodules.seg.nrrd" in said


def test_a_label_table_that_was_found_beside_the_label_map(refused):
    assert "organs.json" in refused("generate", "organs.nrrd", "-o", "out.nrrd", "--report", "organs.json")


def test_a_table_of_all_label_maps_in_the_folder(refused, folder):
    (folder / "organs.json").rename(folder / "labels.json")
    assert "labels.json" in refused("generate", "organs.nrrd", "-o", "out.nrrd", "--report", "labels.json")


def test_the_voxels_of_a_detached_header(refused, folder):
    write_volume(Volume(hounsfield(SMALL), SMALL.geometry), folder / "part.nii")
    header = "ObjectType = Image\nNDims = 3\nDimSize = 24 20 6\nElementSpacing = 14 14 18\nElementType = MET_SHORT\n"
    (folder / "ct.mhd").write_text(header + "HeaderSize = -1\nElementDataFile = part.nii\n")
    assert "part.nii" in refused("segment", "ct.mhd", "-o", "part.nii")


def test_an_image_of_a_dicom_series(refused, folder):
    volume = Volume(hounsfield(SMALL), SMALL.geometry)
    write_ct_series(volume, folder / "series", provenance={})
    one = next((folder / "series").iterdir())
    one.rename(folder / "series" / "one.nrrd")
    assert "one.nrrd" in refused("segment", "series", "-o", "series/one.nrrd")


def test_the_card_of_a_model(refused, folder):
    (folder / "mine.safetensors").write_bytes(b"weights")
    (folder / "mine.json").write_text("{}")
    assert "mine.json" in refused("generate", "organs.nrrd", "-o", "out.nrrd", "--report", "mine.json", "--model", "mine.safetensors")


@pytest.mark.parametrize("argv", [("train", "default", "--data", "cases", "-o", "link"), ("evaluate", "--data", "cases", "-o", "link"),
                                  ("evaluate", "--data", "cases", "-o", "link/a", "--cases", "a")])  # fmt: skip
def test_a_folder_of_cases_is_no_folder_for_results(refused, folder, argv):
    (folder / "cases" / "a").mkdir(parents=True)
    (folder / "cases" / "a" / "ct.nrrd").write_bytes((folder / "ct.nrrd").read_bytes())
    (folder / "link").symlink_to("cases")
    assert "link" in refused(*argv)


def test_a_model_is_not_trained_over_the_one_it_begins_with(refused, folder):
    (folder / "out").mkdir()
    (folder / "cases").mkdir()
    (folder / "out" / "default.safetensors").write_bytes(b"weights")
    refused("train", "default", "--data", "cases", "-o", "out", "--start-from", "out/default.safetensors")


def test_two_outputs_of_one_name(folder, capfd):
    code = main(["nodule", "inject", "ct.nrrd", "-o", "out.nrrd", "--segmentation", "./out.nrrd", "--at", "5,9,3", "--anywhere"])
    assert code == 2 and "written twice" in capfd.readouterr().err and not (folder / "out.nrrd").exists()


def test_a_ct_is_not_named_like_a_segmentation(folder, capfd):
    assert main(["generate", "organs.nrrd", "-o", "out.seg.nrrd"]) == 2
    assert "named like a segmentation" in capfd.readouterr().err and not (folder / "out.seg.nrrd").exists()


def test_an_earlier_output_may_be_replaced(folder, capfd):
    for _ in range(2):
        assert main(["perturb", "organs.nrrd", "--by", "3", "-o", "new.seg.nrrd"]) == 0, capfd.readouterr().err
