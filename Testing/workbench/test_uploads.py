"""What files sent by a browser are, by their content."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Volume
from CTSynthesisLib.workbench.uploads import understand_upload
from Testing.phantom import hounsfield, thorax


@pytest.fixture
def a_pair():
    labelmap = thorax(shape=(6, 60, 70), spacing=(4.0, 4.0, 6.0))
    return labelmap, Volume(hounsfield(labelmap, None, 15).astype(np.int16), labelmap.geometry)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz"])
def test_a_segmentation_is_one_whatever_its_ending_says(a_pair, tmp_path, ending):
    write_segmentation(a_pair[0], tmp_path / f"organs{ending}")
    labelmap, ct = understand_upload(tmp_path)
    assert len(labelmap.segments) == len(a_pair[0].segments) and ct is None


def test_a_pair_and_a_series(a_pair, tmp_path):
    for folder in ("both", "dicom"):
        (tmp_path / folder).mkdir()
    write_segmentation(a_pair[0], tmp_path / "both/organs.seg.nrrd")
    write_volume(a_pair[1], tmp_path / "both/scan.nrrd")
    labelmap, ct = understand_upload(tmp_path / "both")
    assert np.array_equal(ct.array, a_pair[1].array) and labelmap.geometry.agrees_with(ct.geometry)
    for file in write_ct_series(a_pair[1], tmp_path / "series", provenance={}):
        file.rename(tmp_path / "dicom" / file.name)
    labelmap, ct = understand_upload(tmp_path / "dicom")
    assert labelmap is None and np.array_equal(ct.array, a_pair[1].array)


def test_what_is_neither_or_double_is_refused_in_the_users_words(a_pair, tmp_path):
    with pytest.raises(UnusableInput, match="neither"):
        understand_upload(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(UnusableInput, match="^notes.txt"):
        understand_upload(tmp_path)
    (tmp_path / "notes.txt").unlink()
    for name in ("one", "two"):
        write_volume(a_pair[1], tmp_path / f"{name}.nrrd")
    with pytest.raises(UnusableInput, match="2 CTs"):
        understand_upload(tmp_path)
