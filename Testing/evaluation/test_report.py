"""The per-structure report against values that are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.anatomy import understand
from CTSynthesisLib.evaluation.report import as_json, as_text, per_structure
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax


@pytest.fixture
def measured():
    labelmap = thorax()
    empty = Segment(99, "spleen")
    labelmap = LabelMap(labelmap.array, labelmap.geometry, (*labelmap.segments, empty))
    values = {"body": 20, "lung_left": -850, "lung_right": -300, "heart": 40, "aorta": 40, "vertebrae": 200, "spleen": 0}
    volume = Volume(hounsfield(labelmap, values), labelmap.geometry)
    volume.array[labelmap.array == 4] += np.resize([-7, 7], int((labelmap.array == 4).sum())).astype(np.int16)
    return labelmap, {row.segment: row for row in per_structure(volume, labelmap, understand(labelmap.segments))}


def test_volume_mean_median_and_spread_are_measured(measured):
    labelmap, rows = measured
    heart = rows["heart"]
    assert heart.volume_ml == pytest.approx((labelmap.array == 4).sum() * 4.5 * 4.5 * 6.0 / 1000)
    assert heart.mean_hu == pytest.approx(40, abs=0.1)
    assert heart.sd_hu == pytest.approx(7, abs=0.01)
    assert rows["aorta"].median_hu == 40
    assert rows["lung_left"].expected_hu < -700


def test_only_what_is_off_is_flagged(measured):
    _, rows = measured
    assert rows["lung_right"].off, "a lung of -300 HU is not what was expected"
    assert not rows["heart"].off
    assert not rows["lung_left"].off


def test_a_segment_without_voxels_is_said_to_have_none(measured):
    _, rows = measured
    assert rows["spleen"].volume_ml == 0 and not rows["spleen"].off
    assert "no voxel" in next(line for line in as_text(rows.values()).splitlines() if line.startswith("spleen"))
    table = {row["segment"]: row for row in json.loads(as_json(rows.values(), seed=3))["structures"]}
    assert table["spleen"]["mean_hu"] is None
    assert table["heart"]["sd_hu"] == pytest.approx(7, abs=0.01)


def test_a_long_table_is_cut_to_the_largest_and_to_what_is_off(measured):
    _, rows = measured
    text = as_text(rows.values(), at_most=1)
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["body", "lung_right", "and"]
    assert f"and {len(rows) - 2} smaller" in text


def test_the_text_names_segment_and_structure_and_marks_what_is_off(measured):
    _, rows = measured
    renamed = replace(rows["lung_right"], segment="Segment_1")
    text = as_text([renamed, rows["heart"]])
    assert "Segment_1 (lung_right)" in text
    assert [line.endswith("off") for line in text.splitlines()[2:]] == [True, False]
