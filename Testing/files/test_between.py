"""What was painted in every n-th slice only is told by every door, and nothing else is."""

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import write_segmentation
from CTSynthesisLib.files.between import sparse_segments
from CTSynthesisLib.volume import LabelMap
from Testing.phantom import thorax


def striped(axis, every, value=4):
    whole = thorax((20, 40, 48), (7.0, 7.0, 6.0))
    array = np.moveaxis(whole.array.copy(), axis, 0)
    for k in range(len(array)):
        if k % every:
            array[k][array[k] == value] = 1
    return LabelMap(np.ascontiguousarray(np.moveaxis(array, 0, axis)), whole.geometry, whole.segments)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_segment_in_every_third_slice_is_told(axis):
    (sentence,) = sparse_segments(striped(axis, 3))
    assert "'heart' (1 slice in 3)" in sentence and "lung" not in sentence


def test_whole_segments_and_thin_ones_are_not():
    assert sparse_segments(striped(0, 1)) == ()
    single = striped(0, 1)
    array = np.where((single.array == 4) & (np.arange(20)[:, None, None] != 8), 1, single.array)  # one slice alone is no stripe
    assert sparse_segments(LabelMap(array.astype(np.uint16), single.geometry, single.segments)) == ()


@pytest.mark.parametrize("name", ["organs.seg.nrrd", "organs.nii.gz"])
@pytest.mark.parametrize("command", [["structures"], ["generate", "-o", "out.nrrd", "--inside", "plain"]])
def test_the_command_line_tells_it_once(tmp_path, monkeypatch, capfd, name, command):
    monkeypatch.chdir(tmp_path)
    write_segmentation(striped(0, 2), name)
    assert main([command[0], name, *command[1:]]) == 0
    assert capfd.readouterr().err.count("1 slice in 2") == 1
