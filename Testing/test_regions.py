"""Coarse regions of a CT by classical image processing."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.regions import REGIONS, segment_regions
from CTSynthesisLib.volume import Geometry, Volume
from Testing.phantom import hounsfield, thorax


@pytest.fixture(scope="module")
def a_phantom():
    return thorax(shape=(40, 110, 130), spacing=(2.6, 2.6, 4.0))


def with_trabeculae(hu, phantom):
    """Vertebrae are not homogeneous."""
    spine = phantom.array == 6
    return hu + (spine * (np.indices(hu.shape).sum(0) % 2 * 300)).astype(np.int16)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_lungs_bone_and_body_are_found(a_phantom):
    regions = segment_regions(Volume(with_trabeculae(hounsfield(a_phantom, noise=20), a_phantom), a_phantom.geometry))
    named = {segment.name: regions.mask(segment) for segment in REGIONS}
    assert regions.geometry is a_phantom.geometry
    assert dice(named["lungs"], np.isin(a_phantom.array, (2, 3))) > 0.95
    assert dice(named["bone"], a_phantom.array == 6) > 0.85
    assert dice(regions.array > 0, a_phantom.array > 0) > 0.97
    assert not named["blood"].any() and not named["fat"].any()


def test_contrast_filled_blood_is_not_bone(a_phantom):
    """A homogeneous 300 HU aorta and heart are blood; the vertebrae are bone."""
    hu = hounsfield(a_phantom, {"body": 20, "lung_left": -850, "lung_right": -850, "heart": 300, "aorta": 300, "vertebrae": 250}, noise=15)
    regions = segment_regions(Volume(with_trabeculae(hu, a_phantom), a_phantom.geometry))
    named = {segment.name: regions.mask(segment) for segment in REGIONS}
    assert dice(named["blood"], np.isin(a_phantom.array, (4, 5))) > 0.85
    assert dice(named["bone"], a_phantom.array == 6) > 0.8


def test_fat_under_the_skin_is_found_without_specks(a_phantom):
    hu = hounsfield(a_phantom, noise=20)
    inner = np.zeros(hu.shape, bool)
    inner[:, 20:-20, 22:-22] = True
    hu[(a_phantom.array == 1) & ~inner] -= 120
    fat = segment_regions(Volume(hu, a_phantom.geometry)).array == 2
    assert dice(fat, (a_phantom.array == 1) & ~inner) > 0.8
    assert not fat[:, 40:70, 50:80].any()


def test_a_volume_without_a_body_is_refused():
    with pytest.raises(UnusableInput, match="No body"):
        segment_regions(Volume(np.full((5, 40, 40), -1000, np.int16), Geometry.from_spacing((5, 40, 40), (2, 2, 4))))
