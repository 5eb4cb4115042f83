"""Label values of any size and type come in, count as small integers, and go out as they were."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation, write_segmentation
from CTSynthesisLib.files.nrrd import write_nrrd
from CTSynthesisLib.renumber import LARGEST_LABEL
from CTSynthesisLib.volume import LabelMap, Segment
from Testing.geometries import GRIDS, SHAPE

VALUES = (1, 70_001, 5, 2_000_000_000)
NAMES = {1: "body", 70_001: "heart", 5: "aorta", 2_000_000_000: "liver"}
ENDINGS = (".seg.nrrd", ".nrrd", ".nii.gz", ".mha")


def labels_of(values):
    """Each value in a slice of its own, (k, j, i) int64; the last slices are empty."""
    array = np.zeros(SHAPE, np.int64)
    for k, value in enumerate(values):
        array[k, 1:5, 2:7] = value
    return array


def stored(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def scaled(path, labels):
    """``labels`` as nibabel scales floats to int16: a slope in float32 that no label is a whole multiple of."""
    write_segmentation(LabelMap(np.ones(SHAPE, np.uint16), GRIDS["axial"], (Segment(1, "x"),)), path)
    slope = np.float32(labels.max() / 65535)
    content = bytearray(path.read_bytes()[:352])
    struct.pack_into("<2h", content, 70, 4, 16)
    struct.pack_into("<2f", content, 112, slope, np.float32(float(slope) * 32768))
    path.write_bytes(bytes(content) + np.round(labels / float(slope) - 32768).astype("<i2").tobytes())


@pytest.mark.parametrize("ending", ENDINGS)
def test_values_that_are_no_index_are_renumbered_and_written_as_they_were(tmp_path, ending):
    array = labels_of(VALUES)
    first = tmp_path / f"first{ending}"
    write_segmentation(LabelMap.from_labels(array, GRIDS["axial"], [Segment(v, NAMES[v]) for v in VALUES]), first)
    assert np.array_equal(stored(first), array)
    read = read_segmentation(first)
    assert read.array.dtype == np.uint16 and read.array.max() <= LARGEST_LABEL
    assert {segment.label for segment in read.segments} == set(VALUES)
    for segment in read.segments:
        assert np.array_equal(read.mask(segment), array == segment.label)
    again = tmp_path / f"again{ending}"
    write_segmentation(read, again)
    assert np.array_equal(stored(again), array)


def test_a_table_names_large_values(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(labels_of(VALUES).astype(np.int32)), str(tmp_path / "s.nrrd"))
    (tmp_path / "s.json").write_text('{"1": "body", "70001": "heart", "5": "aorta", "2000000000": "liver"}')
    assert {segment.label: segment.name for segment in read_segmentation(tmp_path / "s.nrrd").segments} == NAMES


@pytest.mark.parametrize("top", [5, 91, 850])
def test_labels_that_a_scale_has_made_uneven_are_whole(tmp_path, top):
    array = labels_of((1, 2, 3, top))
    scaled(tmp_path / "s.nii", array)
    read = read_segmentation(tmp_path / "s.nii")
    assert np.array_equal(read.array, array)
    assert ("rounded" in read.metadata[NOTES]) == (top > 5)  # 5 is off by the rounding of the arithmetic only


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i1", "i2", "u4"])
def test_segments_of_any_type_of_number(tmp_path, dtype):
    array = labels_of((1, 2, 3))
    fields = {}
    for n in range(3):
        fields |= {f"Segment{n}_ID": f"S{n}", f"Segment{n}_Name": f"s{n}", f"Segment{n}_LabelValue": n + 1, f"Segment{n}_Layer": 0}
    write_nrrd(tmp_path / "s.seg.nrrd", array.astype(dtype), GRIDS["axial"], fields)
    read = read_segmentation(tmp_path / "s.seg.nrrd")
    assert np.array_equal(read.array, array) and [s.name for s in read.segments] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("name", ["s.seg.nrrd", "s.nrrd", "s.nii", "s.mha"])
def test_labels_that_have_overflown_eight_bits_are_called_so(tmp_path, name):
    array = labels_of((1, 200)).astype(np.int8)
    if name == "s.seg.nrrd":
        write_nrrd(tmp_path / name, array, GRIDS["axial"], {"Segment0_ID": "a", "Segment0_LabelValue": 1, "Segment0_Layer": 0})
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    with pytest.raises(UnusableInput, match=r"-56.*int8.*127"):
        read_segmentation(tmp_path / name)


def test_a_soft_mask_is_no_label_map(tmp_path):
    array = labels_of((1,)).astype(np.float32)
    array[0, 1] *= 0.97
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "s.nrrd"))
    with pytest.raises(UnusableInput, match="whole numbers"):
        read_segmentation(tmp_path / "s.nrrd")
