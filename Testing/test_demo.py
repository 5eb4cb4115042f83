"""The demo as a newcomer runs it: a process, an empty folder, and then what lies in it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from CTSynthesisLib import RESOURCES
from CTSynthesisLib.cli.demo import MADE, SAMPLE
from CTSynthesisLib.cli.outputs import Outputs
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_segmentation, read_volume


def run_demo(folder):
    command = [sys.executable, "-B", "-m", "CTSynthesisLib", "demo", "-o", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(RESOURCES.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer") / "demo"
    done = run_demo(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_it_makes_what_it_says_and_says_what_it_makes(demo):
    folder, done = demo
    assert {path.name for path in folder.iterdir()} == set(MADE)
    assert [path.name for path in folder.parent.iterdir()] == ["demo"], "nothing is left beside it"
    for name in MADE:
        assert name in done.stdout
    assert "expected HU" in done.stdout
    assert all(line.startswith("note: ") for line in done.stderr.splitlines()), done.stderr


def names_at_voxels(labelmap):
    """For each voxel the place of its segment's name in the alphabet; label values may be counted anew."""
    names = sorted(segment.name for segment in labelmap.segments)
    place = np.zeros(int(labelmap.array.max()) + 1, np.int16)
    for segment in labelmap.segments:
        place[segment.value] = 1 + names.index(segment.name)
    return place[labelmap.array]


def test_volume_and_segmentation_lie_on_the_samples_grid(demo):
    folder, _ = demo
    sample = read_segmentation(SAMPLE)
    volume = read_volume(folder / "synthetic-ct.nrrd")
    beside = read_segmentation(folder / "segmentation.seg.nrrd")
    for geometry in (volume.geometry, beside.geometry):
        assert geometry.shape == sample.geometry.shape
        np.testing.assert_allclose(geometry.ijk_to_ras, sample.geometry.ijk_to_ras, atol=1e-6)
    assert np.array_equal(names_at_voxels(beside), names_at_voxels(sample)), "the scene changed no voxel's segment"
    assert volume.metadata["CTSynthesis.Synthetic"] == "1"


def test_the_volume_is_a_ct_of_that_anatomy(demo):
    report = json.loads((demo[0] / "report.json").read_text())
    rows = {row["structure"]: row for row in report["structures"]}
    lungs = [row for name, row in rows.items() if name.startswith("lung") and row["expected_hu"] < -600]
    assert lungs and all(-950 < row["median_hu"] < -600 for row in lungs)
    off = [name for name, row in rows.items() if row["off"]]
    assert len(off) <= 0.15 * len(rows), f"far from their expected values: {off}"


def test_the_dicom_series_holds_the_same_voxels(demo):
    import pydicom

    folder, _ = demo
    volume = read_volume(folder / "synthetic-ct.nrrd")
    datasets = [pydicom.dcmread(path) for path in (folder / "dicom").iterdir()]
    images = sorted((d for d in datasets if d.Modality == "CT"), key=lambda d: float(d.ImagePositionPatient[2]))
    assert len(images) == volume.array.shape[0]
    assert {image.SyntheticData for image in images} == {"YES"}
    middle = images[len(images) // 2]
    hounsfield = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    assert np.array_equal(hounsfield, volume.array[len(images) // 2])
    assert sum(d.Modality == "SEG" for d in datasets) == 1


def test_the_picture_can_be_opened(demo):
    from PIL import Image

    with Image.open(demo[0] / "preview.png") as picture:
        assert picture.size[0] == 1600 and "SYNTHETIC" in picture.text["Description"]
        assert np.asarray(picture).std() > 20


def test_a_second_run_replaces_the_first_whole(tmp_path):
    folder = tmp_path / "demo"
    (folder / "dicom").mkdir(parents=True)
    (folder / "dicom" / "CT9999.dcm").write_text("of the earlier run")
    (folder / "report.json").write_text("of the earlier run")
    with Outputs() as outputs:
        (outputs.folder(folder, replacing=MADE, known_by="report.json") / "preview.png").write_text("of this run")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["demo", "demo/preview.png"]


def test_a_failed_second_run_leaves_the_first_as_it_was(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "report.json").write_text("of the earlier run")
    with pytest.raises(ZeroDivisionError), Outputs() as outputs:
        (outputs.folder(tmp_path / "demo", replacing=MADE, known_by="report.json") / "report.json").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*.*")] == ["report.json"]
    assert (tmp_path / "demo" / "report.json").read_text() == "of the earlier run"


def test_a_folder_with_somebody_elses_files_is_refused(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "my-notes.txt").write_text("mine")
    refused = run_demo(folder)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["my-notes.txt"]


def test_a_folder_with_a_file_named_like_one_of_the_demos_is_refused(tmp_path):
    (tmp_path / "segmentation.seg.nrrd").write_text("painted for hours")
    with pytest.raises(UnusableInput, match="not an empty folder"), Outputs() as outputs:
        outputs.folder(tmp_path, replacing=MADE, known_by="report.json")
    assert (tmp_path / "segmentation.seg.nrrd").read_text() == "painted for hours"
