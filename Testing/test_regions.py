"""Coarse regions of a CT by classical image processing."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.regions import REGIONS, segment_regions
from CTSynthesisLib.synthesis.nodule_places import lungs_of
from CTSynthesisLib.volume import Geometry, LabelMap, Volume
from Testing.phantom import hounsfield, thorax


@pytest.fixture(scope="module")
def a_phantom():
    return thorax(shape=(40, 110, 130), spacing=(2.6, 2.6, 4.0))


def with_trabeculae(hu, phantom):
    """Vertebrae are not homogeneous."""
    spine = phantom.array == 6
    return hu + (spine * ((np.indices(hu.shape) // 2).sum(0) % 2 * 300)).astype(np.int16)


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


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("slices", "apart"), [(1, 0.3), (1, 4.0), (2, 1.0), (3, 0.6), (3, 5.0), (4, 0.3), (4, 1.0), (7, 0.4)])
def test_a_few_slices_or_thin_ones_show_what_a_whole_scan_does(a_phantom, axis, slices, apart, capfd):
    middle = (19, 54, 40)[axis]
    part = np.take(a_phantom.array, np.arange(middle, middle + 1).repeat(slices), axis)  # the same anatomy in each
    spacing = [2.6, 2.6, 4.0]
    spacing[2 - axis] = apart
    labelmap = LabelMap(part, Geometry.from_spacing(part.shape, spacing), a_phantom.segments)
    volume = Volume(hounsfield(labelmap, noise=10), labelmap.geometry)
    regions = segment_regions(volume).array
    lungs = np.isin(part, (2, 3))
    assert dice(regions == 4, lungs) > 0.95 and dice(regions > 0, part > 0) > 0.97
    assert dice(lungs_of(volume) > 0, lungs) > 0.95
    assert capfd.readouterr().err == "", "a filter complained"


def test_a_volume_without_a_body_is_refused():
    with pytest.raises(UnusableInput, match="No body"):
        segment_regions(Volume(np.full((5, 40, 40), -1000, np.int16), Geometry.from_spacing((5, 40, 40), (2, 2, 4))))


def specks(mask, geometry):
    """Number of components below 1 ml."""
    labelled = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)))
    sizes = np.bincount(sitk.GetArrayFromImage(labelled).ravel())[1:]
    return int((sizes * geometry.voxel_ml < 1).sum())


def crop(volume, start, stop):
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return Volume(volume.array[box], volume.geometry.crop(start, volume.array[box].shape)), box


def test_a_scan_cut_out_around_an_organ_has_a_body():
    hu = np.full((40, 40, 40), 40, np.int16)
    hu[:, :12] = -1000  # 45 ml are left
    regions = segment_regions(Volume(hu, Geometry(hu.shape, np.eye(4))))
    assert dice(regions.array > 0, hu > -500) > 0.95


def test_lungs_that_the_border_cuts_are_lungs(a_phantom):
    """Cropped to the heart, the lungs are open to both sides and the top; they are neither gas nor outside air."""
    whole = Volume(hounsfield(a_phantom, noise=20), a_phantom.geometry)
    cropped, box = crop(whole, (4, 10, 40), (28, 100, 100))
    regions = segment_regions(cropped).array
    assert dice(np.isin(regions, (4, 5)), np.isin(a_phantom.array[box], (2, 3))) > 0.95


def test_gas_in_the_bowel_is_not_lung(a_phantom):
    hu = hounsfield(a_phantom, noise=20)
    z, y, x = np.indices(hu.shape)
    gas = ((z - 2) / 7) ** 2 + ((y - 35) / 12) ** 2 + ((x - 60) / 14) ** 2 < 1
    hu[:10][np.isin(a_phantom.array[:10], (2, 3))] = 30
    hu[gas] = -990
    regions = segment_regions(Volume(hu, a_phantom.geometry)).array
    assert dice(regions == 7, gas) > 0.85
    assert not np.isin(regions[gas], (4, 5)).any()


def test_an_enhanced_kidney_is_soft_tissue(a_phantom):
    """A cortex of 220 HU round a medulla of 120 HU is neither bone nor blood."""
    hu = hounsfield(a_phantom, noise=15)
    hu[:14][np.isin(a_phantom.array[:14], (2, 3))] = 30
    z, y, x = np.indices(hu.shape)
    from_centre = np.sqrt(((z - 6) * 4.0) ** 2 + ((y - 70) * 2.6) ** 2 + ((x - 30) * 2.6) ** 2)
    hu[from_centre < 26] = 220
    hu[from_centre < 18] = 120
    regions = segment_regions(Volume(hu, a_phantom.geometry)).array
    assert (regions[from_centre < 24] == 1).mean() > 0.9


def test_vessels_in_the_lungs_are_found_and_noise_is_not():
    phantom = thorax(shape=(60, 180, 180), spacing=(1.6, 1.6, 2.0))
    hu = hounsfield(phantom, noise=40).astype(float)
    z, y, x = (n * s for n, s in zip(np.indices(hu.shape), (2.0, 1.6, 1.6), strict=True))
    tube = np.hypot(y - 0.5 * z - 105, x - 85) < 3.0
    tube &= phantom.array == 3
    tube |= (np.hypot(y - 130, x - 215) < 2.5) & (phantom.array == 2)
    hu[tube] += 880
    regions = segment_regions(Volume(hu.astype(np.int16), phantom.geometry)).array
    deep = tube & (z > 30) & (z < 90)
    assert (regions[deep] == 5).mean() > 0.7
    assert (regions == 5).sum() < 1.8 * tube.sum()


def test_only_airways_and_vessels_are_smaller_than_a_millilitre(a_phantom):
    """Single bright and dark voxels and coarse noise leave no speck behind."""
    hu = hounsfield(a_phantom, {"body": 20, "lung_left": -850, "lung_right": -850, "heart": 200, "aorta": 300, "vertebrae": 350}, noise=120)
    regions = segment_regions(Volume(hu, a_phantom.geometry))
    for segment in REGIONS:
        if segment.name not in ("airway", "lung_vessels"):
            assert specks(regions.mask(segment), a_phantom.geometry) == 0, segment.name


def test_padding_where_the_field_of_view_cuts_the_body_counts_as_air():
    phantom = thorax(shape=(8, 150, 170), spacing=(2.0, 2.0, 4.0))  # fine enough for the border to be smoothed
    hu = hounsfield(phantom, noise=20)
    j, i = np.indices(hu.shape[1:])
    outside = np.hypot(j - 74.5, i - 84.5) > 60
    assert (phantom.array[:, outside] > 0).any()
    found = []
    for value in (-1000, -3024):
        cut = hu.copy()
        cut[:, outside] = value
        found.append(segment_regions(Volume(cut, phantom.geometry)).array)
    np.testing.assert_array_equal(found[1], found[0])
