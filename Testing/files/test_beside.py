"""Either the whole output is there, or nothing is."""

import contextlib
import os
import resource

import numpy as np
import pytest

from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.files.beside import written_beside
from CTSynthesisLib.files.dicom_ct import write_ct_series
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume

LARGE = Geometry.from_spacing((20, 64, 64), (1, 1, 1))
VOLUME = Volume(np.random.default_rng(0).integers(-1000, 1000, LARGE.shape).astype(np.int16), LARGE)
SEGMENTS = tuple(Segment(v, f"s{v}") for v in range(1, 200))
LABELS = LabelMap(np.random.default_rng(0).integers(0, 200, LARGE.shape).astype(np.uint16), LARGE, SEGMENTS)


@contextlib.contextmanager
def a_disk_with_room_for(size):
    """No file may grow beyond ``size`` bytes, which is how a full disk looks to the writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = {
    ".nrrd": lambda path: write_volume(VOLUME, path),
    ".nii": lambda path: write_volume(VOLUME, path),
    ".nii.gz": lambda path: write_volume(VOLUME, path),
    ".mha": lambda path: write_volume(VOLUME, path),
    ".seg.nrrd": lambda path: write_segmentation(LABELS, path),
    "-dicom": lambda path: write_ct_series(VOLUME, path, provenance={}),
}


@pytest.fixture(params=WRITERS)
def write(request):
    writer = WRITERS[request.param]
    return lambda folder: writer(folder / f"out{request.param}")


def test_a_full_disk_leaves_nothing(tmp_path, write):
    with a_disk_with_room_for(6000), pytest.raises(SynthesisFailed, match="full"):
        write(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_earlier_file(tmp_path):
    write_volume(VOLUME, tmp_path / "out.nrrd")
    before = (tmp_path / "out.nrrd").read_bytes()
    with a_disk_with_room_for(6000), pytest.raises(SynthesisFailed):
        write_volume(VOLUME, tmp_path / "out.nrrd")
    assert os.listdir(tmp_path) == ["out.nrrd"] and (tmp_path / "out.nrrd").read_bytes() == before


def test_a_folder_that_does_not_exist(tmp_path, write):
    with pytest.raises(UnusableInput, match="does not exist"):
        write(tmp_path / "nowhere")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written(tmp_path, write):
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere but where the kernel says no
        if not os.path.isdir("/proc/sys"):
            pytest.skip("nothing is unwritable for this user")
        from pathlib import Path

        locked = Path("/proc/sys")
    else:
        locked = tmp_path / "locked"
    with pytest.raises(UnusableInput, match="cannot be written"):
        write(locked)
    assert os.listdir(tmp_path / "locked") == []


def test_a_name_that_is_a_folder(tmp_path):
    (tmp_path / "out.nrrd").mkdir()
    with pytest.raises(UnusableInput, match="cannot be written"):
        write_volume(VOLUME, tmp_path / "out.nrrd")
    assert os.listdir(tmp_path) == ["out.nrrd"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_beside(tmp_path / "out") as part:
        part.mkdir()
        (part / "half").write_text("x")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out.jpeg", "out", "out.nhdr", "out.nrrd.gz"])
def test_an_unknown_format(tmp_path, name):
    with pytest.raises(UnusableInput, match=".nrrd"):
        write_volume(VOLUME, tmp_path / name)
    assert os.listdir(tmp_path) == []
