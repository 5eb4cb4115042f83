"""What unusable input gets: the right exit code, one sentence on stderr, and nothing written."""

import gzip
import json
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib import RESOURCES
from CTSynthesisLib.cli import main
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.volume import Geometry, LabelMap, Volume
from Testing.phantom import hounsfield, thorax

SMALL = thorax((6, 20, 24), (14.0, 14.0, 18.0))


@pytest.fixture
def refused(tmp_path, capfd):
    """Runs a command that has to fail, and returns its sentence."""

    def run(*argv, code=2):
        before = files_below(tmp_path)
        assert main([str(a) for a in argv]) == code
        printed = capfd.readouterr()
        assert_one_sentence(printed.err)
        assert printed.out == ""
        assert files_below(tmp_path) == before, "something was written"
        return printed.err

    return run


def files_below(folder):
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


def assert_one_sentence(text):
    lines = text.splitlines()
    assert len(lines) == 1, f"not one line: {text!r}"
    assert lines[0].startswith("ctsynthesis: ") and lines[0].endswith("."), text
    assert "Traceback" not in text and ". " not in lines[0].replace("e.g. ", ""), f"more than one sentence: {text!r}"


@pytest.fixture
def generate(refused, tmp_path):
    return lambda path, *more, code=2: refused("generate", path, "-o", tmp_path / "out.nrrd", *more, code=code)


@pytest.fixture
def a_segmentation(tmp_path):
    write_segmentation(SMALL, tmp_path / "thorax.seg.nrrd")
    return tmp_path / "thorax.seg.nrrd"


@pytest.fixture
def a_label_map(tmp_path):
    write_segmentation(SMALL, tmp_path / "thorax.nrrd")
    return tmp_path / "thorax.nrrd"


# -- segmentations without content --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty.nrrd", "empty.seg.nrrd", "empty.nii.gz", "empty.mha"])
def test_an_empty_segmentation(generate, tmp_path, name):
    write_segmentation(LabelMap(np.zeros_like(SMALL.array), SMALL.geometry, SMALL.segments), tmp_path / name)
    assert "empty" in generate(tmp_path / name)


def test_a_segmentation_node_without_a_visible_segment(a_segmentation_node):
    import slicer

    from CTSynthesisLib.errors import UnusableInput
    from CTSynthesisLib.session import Session

    a_segmentation_node.GetDisplayNode().SetAllSegmentsVisibility(False)
    before = slicer.mrmlScene.GetNumberOfNodes()
    with Session() as session, pytest.raises(UnusableInput, match="visible"):
        session.generate(a_segmentation_node)
    assert slicer.mrmlScene.GetNumberOfNodes() == before


# -- files that are no images --------------------------------------------------------------------------------------------------------


def test_a_missing_file(generate, tmp_path):
    assert "missing.nrrd" in generate(tmp_path / "missing.nrrd")


@pytest.mark.parametrize("name", ["notes.nrrd", "notes.seg.nrrd", "notes.nii", "notes.nii.gz", "notes.mha", "notes.txt", "notes.dcm"])
@pytest.mark.parametrize("content", [b"", b"this is a shopping list, not an image\n" * 20])
def test_a_file_that_is_no_image(generate, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in generate(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.nrrd", "cut.seg.nrrd", "cut.nii", "cut.nii.gz", "cut.mha"])
def test_a_truncated_file(generate, tmp_path, name):
    path = tmp_path / name
    write_segmentation(thorax((20, 64, 72)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut" in generate(path)


def test_a_folder_without_dicom(generate, tmp_path):
    (tmp_path / "folder").mkdir()
    generate(tmp_path / "folder")


# -- images of another kind ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flat.nrrd", "flat.nii.gz", "flat.mha"])
def test_a_flat_image(generate, tmp_path, name):
    sitk.WriteImage(sitk.Image(20, 30, sitk.sitkUInt8) + 1, str(tmp_path / name))
    assert "dimension" in generate(tmp_path / name)


@pytest.mark.parametrize("name", ["series.nrrd", "series.nii.gz", "series.mha"])
def test_a_four_dimensional_image(generate, tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 8, 8, 8), np.uint8), isVector=False), str(tmp_path / name))
    generate(tmp_path / name)


@pytest.mark.parametrize("name", ["color.nrrd", "color.nii.gz", "color.mha"])
def test_a_color_image(generate, tmp_path, name):
    color = sitk.GetImageFromArray(np.ones((8, 8, 8, 3), np.uint8), isVector=True)
    sitk.WriteImage(color, str(tmp_path / name))
    generate(tmp_path / name)


def test_a_ct_given_as_segmentation(generate, tmp_path):
    write_volume(Volume(hounsfield(SMALL, noise=20), SMALL.geometry), tmp_path / "ct.nrrd")
    assert "ct.nrrd" in generate(tmp_path / "ct.nrrd")


# -- geometry ------------------------------------------------------------------------------------------------------------------------


def nrrd_with(directions):
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\n"
        f"space directions: {directions}\nkinds: domain domain domain\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    return header.encode() + b"\1" * 64


def nifti_with(rows, pixdim):
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 4, 4, 4, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, *pixdim, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, *rows)
    header[344:348] = b"n+1\0"
    return bytes(header) + b"\1" * 64


NAN = float("nan")
DAMAGED = {
    "zero.nrrd": nrrd_with("(0,0,0) (0,1,0) (0,0,1)"),
    "nan.nrrd": nrrd_with("(nan,0,0) (0,1,0) (0,0,1)"),
    "singular.nrrd": nrrd_with("(1,0,0) (1,0,0) (0,0,1)"),
    "zero.nii": nifti_with((0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (0, 1, 1)),
    "nan.nii": nifti_with((NAN, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (NAN, 1, 1)),
    "singular.nii": nifti_with((1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1)),
    "zero.nii.gz": gzip.compress(nifti_with((0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (0, 1, 1))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_spacing_and_directions_that_make_no_space(generate, tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name])
    sentence = generate(tmp_path / name)
    assert "spacing" in sentence or "direction" in sentence


# -- tables and names ----------------------------------------------------------------------------------------------------------------


def test_a_table_that_names_labels_which_are_not_there(generate, a_label_map, tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"41": "liver", "42": "spleen"}))
    sentence = generate(a_label_map, "--labels", table)
    assert "41" in sentence and "liver" in sentence


@pytest.mark.parametrize("content", ["", "{", '{"one": "two"}', '{"1": 2}', "[1, 2]"])
def test_a_table_that_is_none(generate, a_label_map, tmp_path, content):
    (tmp_path / "table.json").write_text(content)
    assert "table.json" in generate(a_label_map, "--labels", tmp_path / "table.json")


def test_a_correction_of_a_segment_that_is_not_there(generate, a_segmentation):
    assert "pancreas" in generate(a_segmentation, "--labels", "pancreas=liver")


def test_a_correction_to_a_structure_that_is_unknown(generate, a_segmentation):
    assert "hart" in generate(a_segmentation, "--labels", "heart=hart")


@pytest.mark.parametrize("value", ["heart", "heart=", "=20", "heart=warm", "heart=9000", "heart=nan", "pancreas=40"])
def test_a_hounsfield_value_that_is_none(generate, a_segmentation, value):
    assert value.split("=")[0] in generate(a_segmentation, "--hu", value)


# -- flags ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--phase", "venous"], ["--kernel", "B30f"], ["--outside", "water"], ["--device", "abacus"], ["--noise", "-1"], ["--noise", "900"],
        ["--thickness", "0"], ["--seed", "seven"], ["--model", "unheard-of"], ["--model", "missing.safetensors"], ["--spacing", "1,1"],
        ["--spacing", "1,1,0"], ["--spacing", "1,nan,1"], ["--spacing", "fine"], ["--like", "missing.nrrd"], ["--dicom-seg"], ["--sharpen"],
        ["--outside", "reference"], ["--spacing", "2,2,2", "--like", "missing.nrrd"], ["--report", "r.pdf"], ["--preview", "p.bmp"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags_that_mean_nothing(generate, a_segmentation, flags):
    generate(a_segmentation, *flags)


@pytest.mark.parametrize("argv", [[], ["paint"], ["generate"], ["generate", "--seed"], ["train", "stylegan9", "--data", ".", "-o", "x"]])
def test_commands_that_mean_nothing(refused, argv):
    refused(*argv)


# -- reference, weights, memory ------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_ct_elsewhere(tmp_path):
    geometry = Geometry.from_spacing((4, 8, 8), (2.0, 2.0, 2.0), origin=(5000.0, 5000.0, 5000.0))
    write_volume(Volume(np.zeros(geometry.shape, np.int16), geometry), tmp_path / "elsewhere.nrrd")
    return tmp_path / "elsewhere.nrrd"


def test_a_reference_that_does_not_overlap(generate, a_segmentation, a_ct_elsewhere):
    assert "overlap" in generate(a_segmentation, "--outside", "reference", "--reference", a_ct_elsewhere)


def test_a_grid_that_does_not_overlap(generate, a_segmentation, a_ct_elsewhere):
    assert "overlap" in generate(a_segmentation, "--like", a_ct_elsewhere)


@pytest.fixture
def a_model_copy(tmp_path):
    """The default model's card and weights in a folder of their own."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (RESOURCES / "Models").rglob("default*"):
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return next(folder.glob("*.safetensors"))


def test_weights_that_were_damaged(generate, a_segmentation, a_model_copy):
    content = bytearray(a_model_copy.read_bytes())
    content[len(content) // 2] ^= 0xFF
    a_model_copy.write_bytes(content)
    assert "checksum" in generate(a_segmentation, "--model", a_model_copy).lower()


def test_weights_that_were_cut_short(generate, a_segmentation, a_model_copy):
    a_model_copy.write_bytes(a_model_copy.read_bytes()[:1000])
    generate(a_segmentation, "--model", a_model_copy)


def test_weights_that_are_missing(generate, a_segmentation, a_model_copy):
    a_model_copy.unlink()
    assert a_model_copy.name in generate(a_segmentation, "--model", a_model_copy)


def test_a_volume_too_large_for_memory_is_refused_with_the_estimate(generate, a_segmentation):
    assert "GB" in generate(a_segmentation, "--spacing", "0.01,0.01,0.01")


def test_a_header_that_declares_more_voxels_than_any_memory_holds(generate, tmp_path):
    header = nrrd_with("(1,0,0) (0,1,0) (0,0,1)").replace(b"sizes: 4 4 4", b"sizes: 60000 60000 60000")
    (tmp_path / "vast.nrrd").write_bytes(header)
    assert "vast.nrrd" in generate(tmp_path / "vast.nrrd")


# -- places that cannot be written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-o", "--dicom", "--report", "--preview"])
def test_a_folder_that_does_not_exist(refused, a_segmentation, tmp_path, flag):
    name = {"-o": "out.nrrd", "--dicom": "series", "--report": "r.json", "--preview": "p.png"}[flag]
    outputs = {"-o": tmp_path / "out.nrrd", flag: tmp_path / "nowhere" / name}
    assert "nowhere" in refused("generate", a_segmentation, *(word for pair in outputs.items() for word in pair))


def test_an_output_of_unknown_kind(refused, a_segmentation, tmp_path):
    assert ".nrrd" in refused("generate", a_segmentation, "-o", tmp_path / "out.jpeg")


def test_a_dicom_folder_that_is_in_use(generate, a_segmentation, tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "image.dcm").write_bytes(b"somebody's scan")
    assert "series" in generate(a_segmentation, "--dicom", tmp_path / "series")


def test_a_full_disk(tmp_path):
    """No file of this process may grow beyond 40 kB, which is how a full disk looks to it."""
    write_segmentation(thorax((20, 64, 72)), tmp_path / "thorax.seg.nrrd")
    before = files_below(tmp_path)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "CTSynthesisLib", "generate", tmp_path / "thorax.seg.nrrd", "-o", tmp_path / "out.nrrd"],
        capture_output=True, text=True, cwd=RESOURCES.parent, env={**os.environ, "PYTHONPATH": str(RESOURCES.parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert_one_sentence(done.stderr)
    assert "out.nrrd" in done.stderr and "full" in done.stderr
    assert files_below(tmp_path) == before
