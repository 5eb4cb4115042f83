"""Voxels beyond what a CT file can hold: metal, and what fills the image around a round field of view."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import NOTES, read_volume

SHAPE = (8, 30, 30)


@pytest.fixture
def a_scan(tmp_path):
    """Writes float HU with ``changes`` (index, value) and reads them."""

    def read(*changes, name="ct.nrrd"):
        array = np.full(SHAPE, 40, np.float32)
        for where, value in changes:
            array[where] = value
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        return read_volume(tmp_path / name)

    return read


A_SPOT = np.s_[4, 15, 14:16]
j, i = np.indices(SHAPE[1:])
AROUND = (slice(None), np.hypot(j - 14.5, i - 14.5) > 15)  # a fifth of the image
MIDDLE = np.s_[:, 10:20, 10:20]


def test_a_few_voxels_of_metal_are_cut_and_told(a_scan):
    volume = a_scan((A_SPOT, 51808), (np.s_[4, 15, 14], 40000))
    assert volume.array.dtype == np.int16 and (volume.array[A_SPOT] == 32767).all() and (volume.array == 40).sum() == volume.array.size - 2
    assert "metal" in volume.metadata[NOTES] and "2 of 7200 voxels" in volume.metadata[NOTES]


@pytest.mark.parametrize("padding", [-33792, -1e30, 64511])
def test_padding_outside_the_range_becomes_air_and_is_told(a_scan, padding):
    volume = a_scan((AROUND, padding), (A_SPOT, 51808) if padding < 0 else (A_SPOT, 900))
    assert (volume.array[AROUND] == -1000).all() and volume.array[4, 15, 15] == (32767 if padding < 0 else 900)
    assert "air (-1000 HU)" in volume.metadata[NOTES]


def test_a_large_implant_at_the_end_of_the_scale_is_no_padding(a_scan):
    volume = a_scan((MIDDLE, 51808))
    assert (volume.array[MIDDLE] == 32767).all() and "metal" in volume.metadata[NOTES]


@pytest.mark.parametrize("changes", [((AROUND, -40000), (np.s_[0], -50000)), ((MIDDLE, 40000), (np.s_[0], 50000)), ((np.s_[:], 70000),)])
def test_an_image_of_other_values_is_refused(a_scan, changes):
    with pytest.raises(UnusableInput, match=r"ct.nrrd .*not Hounsfield units"):
        a_scan(*changes)


def test_what_is_within_the_range_stays_as_it_is(a_scan):
    volume = a_scan((AROUND, -3024))
    assert (volume.array[AROUND] == -3024).all() and NOTES not in volume.metadata
