"""Files that are no volume and no segmentation: each gets one sentence with a way out."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_segmentation, read_volume, write_segmentation, write_volume
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.geometries import GRIDS, SHAPE


def refusal(read, path, capfd):
    with pytest.raises(UnusableInput) as refused:
        read(path)
    sentence = str(refused.value)
    assert path.name in sentence, "does not say which file"
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence, f"not one sentence: {sentence}"
    assert "; " in sentence or "(" in sentence, f"no way out: {sentence}"
    assert capfd.readouterr().err == "", "a library spoke beside us"
    return sentence


BOTH = pytest.mark.parametrize("read", [read_volume, read_segmentation])


@BOTH
def test_a_missing_file(tmp_path, capfd, read):
    refusal(read, tmp_path / "missing.nrrd", capfd)


@BOTH
@pytest.mark.parametrize(
    "name", [f"scan{e}" for e in (".nrrd", ".seg.nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".dcm", ".png", "")]
)
@pytest.mark.parametrize("content", [b"", b"a shopping list\n" * 40, bytes(500)], ids=["nothing", "text", "zeros"])
def test_a_file_that_is_no_image(tmp_path, capfd, read, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(read, tmp_path / name, capfd)


@BOTH
@pytest.mark.parametrize("name", ["scan.nrrd", "scan.seg.nrrd", "scan.nii", "scan.nii.gz", "scan.mha"])
@pytest.mark.parametrize("part", [0.99, 0.5, 0.05])
def test_a_truncated_file(tmp_path, capfd, read, name, part):
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint16)
    write_segmentation(LabelMap(labels, GRIDS["axial"], (Segment(1, "a"), Segment(2, "b"))), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * part)])
    refusal(read, tmp_path / name, capfd)


@BOTH
def test_a_header_without_its_voxels(tmp_path, capfd, read):
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    for name, voxels in (("a.mhd", "a.raw"), ("b.nhdr", "b.raw")):
        sitk.WriteImage(image, str(tmp_path / name))
        (tmp_path / voxels).unlink()
        refusal(read, tmp_path / name, capfd)


@BOTH
@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("kind", ["2D", "4D", "color"])
def test_images_of_another_kind(tmp_path, capfd, read, extension, kind):
    array = {"2D": np.ones((5, 6), np.int16), "4D": np.ones((3, 4, 5, 6), np.int16), "color": np.ones((4, 5, 6, 3), np.uint8)}[kind]
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=kind == "color"), str(tmp_path / f"scan{extension}"))
    sentence = refusal(read, tmp_path / f"scan{extension}", capfd)
    assert ("per voxel" in sentence or "color" in sentence) if kind == "color" else "three-dimensional" in sentence


NRRD = "NRRD0004\ntype: uint8\ndimension: 3\n{}sizes: 4 4 4\nencoding: raw\n\n"


@BOTH
def test_a_header_that_misses_one_of_its_voxel_files_names_it(tmp_path, capfd, read):
    for k in (1, 3):
        (tmp_path / f"s {k}.raw").write_bytes(bytes(16))
    nhdr = NRRD.format("").removesuffix("\n")
    mhd = MHA.format("1 0 0 0 1 0 0 0 1", "1 1 1").removesuffix("LOCAL\n")
    for name, text in (
        ("pattern.nhdr", nhdr + "data file: s %d.raw 1 4 1 2\n"), ("list.nhdr", nhdr + "data file: LIST 2\ns 1.raw\ns 2.raw\ns 3.raw\n"),
        ("pattern.mhd", mhd + "s %d.raw 1 4 1\n"), ("list.mhd", mhd + "LIST\ns 1.raw\ns 2.raw\ns 3.raw\n"),
        ("away.nhdr", nhdr + "data file: away/s 2.raw\n"), ("away.mhd", mhd + "away/s 2.raw\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert "s 2.raw" in refusal(read, tmp_path / name, capfd)


MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nTransformMatrix = {}\nOffset = 0 0 0\n"
    "ElementSpacing = {}\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)
SPACE = "space: left-posterior-superior\nspace directions: {} (0,1,0) (0,0,1)\n"


@BOTH
@pytest.mark.parametrize(
    ("name", "header", "word"),
    [
        ("zero.nrrd", NRRD.format(SPACE.format("(0,0,0)")), "spacing"),
        ("nan.nrrd", NRRD.format(SPACE.format("(nan,nan,nan)")), "spacing"),
        ("half-nan.nrrd", NRRD.format(SPACE.format("(nan,0,0)")), "spacing"),
        ("none.nrrd", NRRD.format(SPACE.format("none")), "spacing"),
        ("singular.nrrd", NRRD.format(SPACE.format("(0,1,0)")), "singular"),
        ("zero-spacings.nrrd", NRRD.format("spacings: 0 1 1\n"), "spacing"),
        ("nan-spacings.nrrd", NRRD.format("spacings: nan 1 1\n"), "spacing"),
        ("zero.mha", MHA.format("1 0 0 0 1 0 0 0 1", "0 1 1"), "spacing"),
        ("nan.mha", MHA.format("1 0 0 0 1 0 0 0 1", "nan 1 1"), "spacing"),
        ("singular.mha", MHA.format("1 0 0 1 0 0 0 0 1", "1 1 1"), "singular"),
    ],
)
def test_geometry_that_is_none(tmp_path, capfd, read, name, header, word):
    (tmp_path / name).write_bytes(header.encode() + b"\1" * 64)
    assert word in refusal(read, tmp_path / name, capfd)


@BOTH
@pytest.mark.parametrize(
    ("forms", "pixdim", "first_row", "word"),
    [
        ((0, 0), (0, 1, 1), (1, 0, 0, 0), "spacing"),
        ((0, 0), (float("nan"), 1, 1), (1, 0, 0, 0), "finite"),
        ((1, 0), (0, 1, 1), (1, 0, 0, 0), "spacing"),
        ((0, 1), (1, 1, 1), (0, 0, 0, 0), "spacing"),
        ((0, 1), (1, 1, 1), (float("nan"), 0, 0, 0), "finite"),
        ((0, 1), (1, 1, 1), (0, 0, 0, 0), ""),
    ],
)
def test_nifti_geometry_that_is_none(tmp_path, capfd, read, forms, pixdim, first_row, word):
    write_volume(Volume(np.ones(SHAPE, np.int16), GRIDS["axial"]), tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    struct.pack_into("<3f", content, 80, *pixdim)
    struct.pack_into("<2h", content, 252, *forms)
    struct.pack_into("<12f", content, 280, *first_row, 0, 1, 0, 0, 0, 0, 1, 0)
    (tmp_path / "scan.nii").write_bytes(content)
    assert word in refusal(read, tmp_path / "scan.nii", capfd)


@BOTH
def test_a_header_that_declares_more_voxels_than_there_are(tmp_path, capfd, read):
    for name, text in (("scan.nrrd", NRRD.format("")), ("scan.mha", MHA.format("1 0 0 0 1 0 0 0 1", "1 1 1"))):
        (tmp_path / name).write_bytes(text.replace("4 4 4", "60000 60000 60000").encode() + b"\1" * 64)
        refusal(read, tmp_path / name, capfd)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.seg.nrrd", "scan.nii.gz", "scan.mha"])
def test_an_empty_segmentation(tmp_path, capfd, name):
    write_segmentation(LabelMap(np.zeros(SHAPE, np.uint16), GRIDS["axial"], (Segment(1, "a"),)), tmp_path / name)
    assert "empty" in refusal(read_segmentation, tmp_path / name, capfd)


def test_values_that_are_no_labels(tmp_path, capfd):
    for name, array, word in (
        ("half.nrrd", np.full(SHAPE, 0.5, np.float32), "whole numbers"),
        ("nan.nrrd", np.full(SHAPE, np.nan, np.float32), "whole numbers"),
        ("negative.nrrd", np.full(SHAPE, -1, np.int16), "negative"),
        ("vast.nrrd", np.full(SHAPE, 2**40, np.int64), "renumber"),
        ("image.nrrd", np.arange(1100, dtype=np.int16).reshape(10, 10, 11), "image rather"),
    ):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        assert word in refusal(read_segmentation, tmp_path / name, capfd)


def test_whole_numbers_in_floating_point_are_labels(tmp_path):
    array = np.zeros(SHAPE, np.float64)
    array[2] = 3
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "scan.nii.gz"))
    labelmap = read_segmentation(tmp_path / "scan.nii.gz")
    assert labelmap.array.dtype == np.uint16 and labelmap.segments[0].value == 3


def test_values_that_are_no_hounsfield_units(tmp_path, capfd):
    for name, array in (("nan.nrrd", np.full(SHAPE, np.nan, np.float32)), ("vast.nrrd", np.full(SHAPE, 70000, np.int32))):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        refusal(read_volume, tmp_path / name, capfd)


@BOTH
def test_a_folder_without_dicom(tmp_path, capfd, read):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("nothing here")
    refusal(read, tmp_path / "folder", capfd)


def test_a_fractional_segmentation_of_3d_slicer(tmp_path, capfd):
    write_segmentation(LabelMap(np.ones(SHAPE, np.uint16), GRIDS["axial"], (Segment(1, "a"),)), tmp_path / "scan.seg.nrrd")
    content = (tmp_path / "scan.seg.nrrd").read_bytes()
    (tmp_path / "scan.seg.nrrd").write_bytes(content.replace(b"MasterRepresentation:=Binary", b"MasterRepresentation:=Fractional"))
    assert "Fractional" in refusal(read_segmentation, tmp_path / "scan.seg.nrrd", capfd)
