"""What the values of a label map mean."""

import gzip
import json
import struct

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_segmentation, write_segmentation
from CTSynthesisLib.volume import LabelMap, Segment
from Testing.geometries import GRIDS, SHAPE


@pytest.fixture
def a_label_map(tmp_path):
    """Writes ``scan_seg.nii.gz`` with labels 1, 2 and 5 (or others)."""

    def write(values=(1, 2, 5), name="scan_seg.nii.gz"):
        labels = np.zeros(SHAPE, np.uint16)
        for n, value in enumerate(values):
            labels.ravel()[10 * n + 5 : 10 * n + 12] = value
        write_segmentation(LabelMap(labels, GRIDS["axial"], tuple(Segment(v, "x") for v in values)), tmp_path / name)
        return tmp_path / name

    return write


def names(labelmap):
    return {segment.value: segment.name for segment in labelmap.segments}


ALL = {1: "liver", 2: "spleen", 5: "aorta"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("t.json", '{"1": "liver", "2": "spleen", "5": "aorta"}'),
        ("t.json", '{"background": 0, "liver": 1, "spleen": 2, "aorta": 5}'),
        ("t.json", '[{"value": 1, "name": "liver"}, {"value": 2, "name": "spleen"}, {"value": 5, "name": "aorta"}]'),
        ("t.json", '{"labels": {"background": 0, "liver": 1, "spleen": 2, "aorta": 5}, "channel_names": {"0": "CT"}}'),
        ("t.csv", "value,name\n1,liver\n2,spleen\n5,aorta\n"),
        ("t.csv", "\ufeffName;Value\r\nliver;1\r\n\r\nspleen;2\r\naorta;5\r\n"),
    ],
)
def test_every_form_of_a_table(a_label_map, tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    labelmap = read_segmentation(a_label_map(), labels=tmp_path / file)
    assert names(labelmap) == ALL and NOTES not in labelmap.metadata


def test_codes_colors_and_hounsfield_values(a_label_map, tmp_path):
    liver = {"value": 1, "name": "liver", "code": ["SCT", "10200004", "Liver"], "color": [0.8, 0.4, 0.2], "hu": 110}
    rows = [liver, {"value": 2, "name": "spleen"}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.csv").write_text("value,name,code,color,hu\n1,liver,SCT^10200004^Liver,0.8 0.4 0.2,110\n2,spleen,,,\n")
    for table in ("t.json", "t.csv"):
        liver, spleen, _ = read_segmentation(a_label_map(), labels=tmp_path / table).segments
        assert liver == Segment(1, "liver", code=("SCT", "10200004", "Liver"), color=(0.8, 0.4, 0.2), hu=110.0)
        assert spleen == Segment(2, "spleen")


@pytest.mark.parametrize("file", ["scan_seg.json", "labels.json"])
def test_a_table_beside_is_found_and_this_is_told(a_label_map, tmp_path, file):
    (tmp_path / file).write_text('{"1": "liver", "2": "spleen", "5": "aorta", "9": "pancreas"}')
    labelmap = read_segmentation(a_label_map())
    assert names(labelmap) == ALL
    assert file in labelmap.metadata[NOTES] and "9 (pancreas)" in labelmap.metadata[NOTES]


def test_a_csv_beside_and_the_order_of_search(a_label_map, tmp_path):
    (tmp_path / "labels.json").write_text('{"1": "a", "2": "b", "5": "c"}')
    (tmp_path / "scan_seg.csv").write_text("value,name\n1,liver\n2,spleen\n5,aorta\n")
    assert names(read_segmentation(a_label_map())) == ALL


def test_a_side_car_that_is_no_table_is_passed_over(a_label_map, tmp_path):
    (tmp_path / "scan_seg.json").write_text('{"Modality": "CT", "KVP": 120.0}')
    (tmp_path / "labels.json").write_text('{"1": "liver", "2": "spleen", "5": "aorta"}')
    assert names(read_segmentation(a_label_map())) == ALL


def test_without_a_table_labels_are_named_by_value_and_this_is_told(a_label_map):
    labelmap = read_segmentation(a_label_map())
    assert names(labelmap) == {1: "Label 1", 2: "Label 2", 5: "Label 5"} and "No label table" in labelmap.metadata[NOTES]


def test_labels_that_a_table_leaves_out_are_told(a_label_map, tmp_path):
    (tmp_path / "t.json").write_text('{"1": "liver"}')
    labelmap = read_segmentation(a_label_map(), labels=tmp_path / "t.json")
    assert names(labelmap)[5] == "Label 5" and "2, 5" in labelmap.metadata[NOTES]


def test_mmwhs_is_recognised_by_its_values(a_label_map):
    from CTSynthesisLib.anatomy import understand

    labelmap = read_segmentation(a_label_map((205, 420, 500, 550, 600, 820, 850)))
    structures = {one.segment.value: one.structure.name for one in understand(labelmap.segments)}
    assert structures == {
        205: "heart_myocardium", 420: "heart_atrium_left", 500: "heart_ventricle_left", 550: "heart_atrium_right",
        600: "heart_ventricle_right", 820: "aorta_ascending", 850: "pulmonary_artery",
    }  # fmt: skip
    assert "MM-WHS" in labelmap.metadata[NOTES]
    assert names(read_segmentation(a_label_map((205, 420), name="two.nrrd"))) == {205: "Label 205", 420: "Label 420"}  # too few to be sure
    assert names(read_segmentation(a_label_map((205, 420, 500, 3), name="other.nrrd")))[3] == "Label 3"


@pytest.mark.parametrize("values", [(205, 421, 500), (205, 420, 421, 500, 550, 600, 820, 850)])
def test_the_misprint_of_mmwhs_is_the_left_atrium_and_this_is_told(a_label_map, values):
    labelmap = read_segmentation(a_label_map(values))
    assert names(labelmap)[421] == "heart_atrium_left" and len(labelmap.segments) == len(values)
    assert "421" in labelmap.metadata[NOTES] and "left atrium" in labelmap.metadata[NOTES]


def refusal(*args, **keywords):
    with pytest.raises(UnusableInput) as refused:
        read_segmentation(*args, **keywords)
    return str(refused.value)


def test_the_table_of_a_whole_labelling_serves_a_part_of_it(a_label_map, tmp_path):
    (tmp_path / "t.json").write_text('{"1": "liver", "3": "gallbladder", "4": "pancreas"}')
    labelmap = read_segmentation(a_label_map(), labels=tmp_path / "t.json")
    assert names(labelmap)[1] == "liver" and "3 (gallbladder), 4 (pancreas)" in labelmap.metadata[NOTES]
    (tmp_path / "t.json").write_text('{"3": "gallbladder", "4": "pancreas"}')
    sentence = refusal(a_label_map(), labels=tmp_path / "t.json")
    assert "3 (gallbladder), 4 (pancreas)" in sentence and "t.json" in sentence


def test_regions_name_the_labels_that_have_no_name_of_their_own(a_label_map, tmp_path):
    """nnU-Net's regions: a label belongs to the smallest that holds it."""
    labels = {"background": 0, "liver": 1, "abdomen": [1, 2, 5], "spleen or aorta": [2, 5], "aorta": [5]}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2, 3]}))
    labelmap = read_segmentation(a_label_map(), labels=tmp_path / "dataset.json")
    assert names(labelmap) == {1: "liver", 2: "spleen or aorta", 5: "aorta"}


CARET = """<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>
<Label Key="0" Red="0"><![CDATA[???]]></Label><Label Key="1" Red="1"><![CDATA[liver]]></Label><Label Key="9"><![CDATA[pancreas]]></Label>
<Label Key="5"><![CDATA[aorta]]></Label></LabelTable></VolumeInformation></CaretExtension>"""


@pytest.mark.parametrize("name", ["ml.nii", "ml.nii.gz"])
def test_names_in_the_nifti_file_itself(a_label_map, tmp_path, name):
    """As TotalSegmentator writes them with --ml. A table of the file's own name beside it goes first, one for the whole folder last."""
    a_label_map(name=name)
    _extend(tmp_path / name, CARET.encode())
    (tmp_path / "labels.json").write_text('{"1": "spleen"}')
    labelmap = read_segmentation(tmp_path / name)
    assert names(labelmap) == {1: "liver", 2: "Label 2", 5: "aorta"}
    assert "header of the file" in labelmap.metadata[NOTES] and "9 (pancreas)" in labelmap.metadata[NOTES]
    (tmp_path / "ml.json").write_text('{"1": "kidney"}')
    assert names(read_segmentation(tmp_path / name))[1] == "kidney"


def test_an_extension_that_is_no_table_is_passed_over(a_label_map, tmp_path):
    for n, text in enumerate((b"<LabelTable", b"a comment", b"<!DOCTYPE x><LabelTable><Label Key='1'>liver</Label></LabelTable>")):
        path = a_label_map(name=f"{n}.nii.gz")
        _extend(path, text)
        assert names(read_segmentation(path))[1] == "Label 1"


def _extend(path, text):
    """Put a header extension into a NIfTI file that has none."""
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    size = (len(text) + 8 + 15) // 16 * 16
    content[348] = 1
    struct.pack_into("<f", content, 108, 352 + size)
    content = bytes(content[:352]) + (struct.pack("<2i", size, 30) + text).ljust(size, b"\0") + bytes(content[352:])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(("name", "expected"), [
    ("heart.nii.gz", "heart"), ("lung_upper_lobe_left.nrrd", "lung_upper_lobe_left"), ("segmentation.nii.gz", "Label 1"),
    ("ptv.mha", "Label 1"),
])  # fmt: skip
def test_a_single_label_is_named_after_the_file_where_that_names_a_structure(a_label_map, name, expected):
    labelmap = read_segmentation(a_label_map((1,), name=name))
    assert names(labelmap) == {1: expected} and ("after the file" in labelmap.metadata[NOTES]) == (expected != "Label 1")
    assert names(read_segmentation(a_label_map((1, 2), name=name))) == {1: "Label 1", 2: "Label 2"}


def test_a_found_table_for_another_image_is_refused(a_label_map, tmp_path):
    (tmp_path / "labels.json").write_text('{"7": "liver", "8": "spleen"}')
    assert "7 (liver)" in refusal(a_label_map())


@pytest.mark.parametrize(
    "text",
    [
        "", "not json", "[]", "{}", "null", '"liver"', "[1, 2]", '{"liver": "red"}', '{"1": 2.5}', '[{"name": "liver"}]', '{"liver": 1.5}',
        '{"-1": "x"}',
    ],
)  # fmt: skip
def test_a_table_that_is_none(a_label_map, tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    assert "t.json is not a label table" in refusal(a_label_map(), labels=tmp_path / "t.json")


def test_a_csv_that_is_none_a_value_twice_and_a_missing_table(a_label_map, tmp_path):
    (tmp_path / "t.csv").write_text("organ,color\nliver,red\n")
    assert "t.csv is not a label table" in refusal(a_label_map(), labels=tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("value,name\n1,liver\n1,spleen\n")
    assert "value 1 twice" in refusal(a_label_map(), labels=tmp_path / "t.csv")
    assert "cannot be read" in refusal(a_label_map(), labels=tmp_path / "missing.json")
