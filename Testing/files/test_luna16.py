"""LUNA16's tables: nodules with diameters, candidates with classes, coordinates turned from LPS to RAS."""

import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files.luna16 import read_luna16


def write(folder, *lines):
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_nodules_by_series(tmp_path):
    head = "seriesuid,coordX,coordY,coordZ,diameter_mm"
    found = read_luna16(write(tmp_path, head, "1.2.3,56.2,86.34,-115.87,23.35", "1.2.4,-10,20,30,5", "1.2.3,1,2,3,4.5"))
    assert list(found) == ["1.2.3", "1.2.4"] and [f.diameter_mm for f in found["1.2.3"]] == [23.35, 4.5]
    assert found["1.2.3"][0].centre_ras == (-56.2, -86.34, -115.87) and found["1.2.4"][0].centre_ras == (10, -20, 30)


def test_candidates_have_a_class_and_no_diameter(tmp_path):
    found = read_luna16(write(tmp_path, "seriesuid,coordX,coordY,coordZ,class", "1.2.3,1,2,3,0", "1.2.3,4,5,6,1"))
    assert [(f.is_nodule, f.diameter_mm) for f in found["1.2.3"]] == [(False, None), (True, None)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("uid,x,y,z", "1,2,3,4"), "not a table of LUNA16"),
        (("seriesuid,coordX,coordY,coordZ,diameter_mm", "1.2,3,4,five,6"), "Line 2 .* other than numbers"),
        (("seriesuid,coordX,coordY,coordZ,diameter_mm", "1.2,3,4"), "Line 2 .* other than numbers"),
        (("seriesuid,coordX,coordY,coordZ,diameter_mm", "1.2,3,4,5,6", "1.2,3,4,5,-6"), "Line 3 .* not a finding"),
        (("seriesuid,coordX,coordY,coordZ,class", "1.2,3,4,5,7"), "not a finding"),
    ],
)
def test_other_tables_are_refused_with_the_line(tmp_path, lines, said):
    with pytest.raises(UnusableInput, match=said):
        read_luna16(write(tmp_path, *lines))


def test_a_missing_table(tmp_path):
    with pytest.raises(UnusableInput, match="There is no file"):
        read_luna16(tmp_path / "annotations.csv")
