"""``ctsynthesis volume`` on the command line, on models with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import read_segmentation, read_volume
from Testing.synthesis.models import save_random_anatomy, save_random_model


@pytest.fixture(scope="module")
def a_command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    anatomy, renderer = save_random_anatomy(folder), save_random_model(folder)
    return ["volume", "--preset", anatomy.path, "--model", renderer.path, "--size", "64", "--seed", "2"]


@pytest.fixture(scope="module")
def two_volumes(a_command, tmp_path_factory):
    out = tmp_path_factory.mktemp("volumes") / "out"
    assert main([*a_command, "-o", str(out), "-n", "2", "--with-segmentation", "--nodules", "1"]) == 0
    return out


def voxels(path):
    return read_volume(path).array


def test_volumes_segmentations_records_and_a_manifest(two_volumes):
    assert sorted(path.name for path in two_volumes.iterdir()) == [
        "cohort.json", "manifest.json", *(f"volume-000{n}.{end}" for n in (0, 1) for end in ("json", "nrrd", "seg.nrrd"))
    ]  # fmt: skip
    labelmap, volume = read_segmentation(two_volumes / "volume-0001.seg.nrrd"), read_volume(two_volumes / "volume-0001.nrrd")
    assert labelmap.geometry.agrees_with(volume.geometry) and "nodule" in {segment.name for segment in labelmap.segments}
    manifest = json.loads((two_volumes / "manifest.json").read_text())
    assert manifest["request"]["seed"] == 2 and len(manifest["weights"]) == 64
    assert [one["provenance"]["CTSynthesis.Synthetic"] for one in manifest["volumes"]] == ["1", "1"]
    assert not np.array_equal(voxels(two_volumes / "volume-0000.nrrd"), volume.array)


def test_two_processes_share_the_numbers_and_make_the_same_volumes(a_command, two_volumes, tmp_path):
    """As torchrun starts them: each knows its rank, and nothing of the other. One process made the same volumes before."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "CTSynthesisLib", *a_command, "-o", str(out), "-n", "2", "--with-segmentation", "--nodules", "1"]
    ranks = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, cwd=Path(__file__).parents[1],
                         stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert all("1 volumes made" in one for one in said)
    assert [one["number"] for one in json.loads((out / "manifest.json").read_text())["volumes"]] == [0, 1]
    for n in (0, 1):
        assert np.array_equal(voxels(out / f"volume-000{n}.nrrd"), voxels(two_volumes / f"volume-000{n}.nrrd"))


def test_the_other_formats(a_command, two_volumes, tmp_path):
    given = [*a_command, "--nodules", "1"]
    assert main([*given, "-o", str(tmp_path / "nifti"), "--format", "nifti"]) == 0
    assert main([*given, "-o", str(tmp_path / "dicom"), "--format", "dicom", "--with-segmentation"]) == 0
    expected = voxels(two_volumes / "volume-0000.nrrd")
    assert np.array_equal(np.sort(voxels(tmp_path / "nifti" / "volume-0000.nii.gz"), None), np.sort(expected, None))
    assert np.array_equal(np.sort(voxels(tmp_path / "dicom" / "volume-0000"), None), np.sort(expected, None))
    assert (tmp_path / "dicom" / "volume-0000" / "segmentation.dcm").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "sentence"),
    ((["-n", "0"], "at least 1"), (["--format", "tiff"], "nrrd, nifti, dicom"), (["--preset", "default"], "needs a segmentation"),
     (["--size", "9"], "64 to 1024"), (["--model", "segmenter"], "generates no CT")),
)  # fmt: skip
def test_what_cannot_be_made_is_said_in_one_sentence(a_command, more, sentence, tmp_path, capsys):
    assert main([*a_command, "-o", str(tmp_path / "out"), *more]) == 2
    assert sentence in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.nrrd")) if (tmp_path / "out").exists() else True
