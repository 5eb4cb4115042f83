"""Grown lung vessels branch, go on from slice to slice, and belong to the world."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.files import read_segmentation
from CTSynthesisLib.modelstore import RESOURCES
from CTSynthesisLib.synthesis.lung_vessels import grow_vessels
from CTSynthesisLib.volume import Geometry, reorder, resample


@pytest.fixture(scope="module")
def the_sample():
    """The sample's lungs, vessels included, and their geometry."""
    sample = read_segmentation(RESOURCES / "Samples" / "thorax.seg.nrrd")
    wanted = [s.value for s in sample.segments if s.name in ("lung_left", "lung_right", "lung_vessels")]
    return np.isin(sample.array, wanted), sample.geometry


@pytest.fixture(scope="module")
def the_vessels(the_sample):
    return grow_vessels(*the_sample, seed=1)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def pleural_depth(lungs, geometry):
    image = sitk.GetImageFromArray(lungs.astype(np.uint8))
    image.SetSpacing(geometry.spacing.tolist())
    return -sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))


def components(mask):
    """Labels 1, 2, ... by falling size."""
    found = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    return sitk.GetArrayFromImage(sitk.RelabelComponent(found))


def at_spacing(sample, spacing):
    lungs, geometry = sample
    target = geometry.with_spacing(spacing)
    return resample(lungs.astype(np.uint8), geometry, target, labels=True) > 0, target


def test_vessels_lie_inside_the_lungs_and_fill_as_much_of_them_as_real_ones(the_sample, the_vessels):
    lungs, geometry = the_sample
    assert the_vessels.dtype == bool and the_vessels.shape == lungs.shape
    assert not (the_vessels & ~lungs).any()
    assert 0.03 < the_vessels.sum() / lungs.sum() < 0.06
    depth = pleural_depth(lungs, geometry)
    shallow, deep = (the_vessels[(depth > a) & (depth <= b)].mean() for a, b in ((0, 4), (12, 20)))
    assert shallow < 0.35 * deep


def test_vessels_go_on_from_slice_to_slice(the_vessels, the_sample):
    """Nearly every vessel voxel hangs on a tree that spans at least 15 cm from head to foot."""
    labels = components(the_vessels)
    extents = [np.ptp(np.flatnonzero((labels == n).any((1, 2)))) * the_sample[1].spacing[2] for n in range(1, min(labels.max(), 8) + 1)]
    long = 1 + np.flatnonzero(np.array(extents) > 150)
    assert np.isin(labels, long).sum() > 0.95 * the_vessels.sum()


def test_vessels_branch_into_many_thin_ones_from_a_few_thick_ones(the_sample, the_vessels):
    geometry = the_sample[1]
    inner = pleural_depth(the_vessels, geometry)
    assert 3.0 < inner.max() < 8.5
    counts = [components(one[None]).max() for one in the_vessels[60:120:6]]
    assert min(counts) > 40  # cross-sections in an axial slice
    off_trunks = pleural_depth(inner < 1.5, geometry) > 4  # mm from anything thicker than 3 mm
    assert components(the_vessels & off_trunks).max() > 30  # without the trunks the branches fall apart


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_tree(the_sample, the_vessels):
    assert np.array_equal(grow_vessels(*the_sample, seed=1), the_vessels)
    assert dice(grow_vessels(*the_sample, seed=2), the_vessels) < 0.25


def test_a_crop_around_the_lungs_keeps_every_vessel(the_sample, the_vessels):
    lungs, geometry = the_sample
    inside = np.argwhere(lungs)
    start, stop = inside.min(0) - 3, inside.max(0) + 2
    window = tuple(map(slice, start, stop))
    assert np.array_equal(grow_vessels(lungs[window], geometry.crop(start, stop - start), seed=1), the_vessels[window])


def test_a_crop_to_one_lung_keeps_its_vessels(the_sample, the_vessels):
    lungs, geometry = the_sample
    middle = lungs.shape[2] // 2
    half = grow_vessels(lungs[..., :middle], geometry.crop((0, 0, 0), (*lungs.shape[:2], middle)), seed=1)
    assert dice(half, the_vessels[..., :middle]) > 0.97


def test_an_edit_changes_vessels_near_it_only(the_sample, the_vessels):
    lungs, geometry = the_sample
    edited = lungs.copy()
    k, j, i = np.argwhere(lungs[:, :, 240:])[len(lungs)] + (0, 0, 240)  # at the base of one lung
    edited[: k + 5, :, 240:] = False
    grown = grow_vessels(edited, geometry, seed=1)
    far = np.s_[k + 45 :]
    assert dice(grown[far], the_vessels[far]) > 0.95
    assert np.array_equal(grown[..., : lungs.shape[2] // 2 - 10], the_vessels[..., : lungs.shape[2] // 2 - 10])


@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True)])
def test_the_direction_of_the_axes_does_not_matter(the_sample, the_vessels, flips):
    lungs, geometry = the_sample
    turned = grow_vessels(reorder(lungs, (0, 1, 2), flips), geometry.reordered((0, 1, 2), flips), seed=1)
    assert dice(reorder(turned, (0, 1, 2), flips), the_vessels) > 0.999


@pytest.mark.parametrize("spacing, least, most", [((1.5, 1.5, 2.5), 0.03, 0.07), ((0.95, 0.95, 6), 0.02, 0.06), ((3, 3, 3), 0.005, 0.06)])
def test_any_spacing_shows_the_same_tree(the_sample, the_vessels, spacing, least, most):
    lungs, geometry = at_spacing(the_sample, spacing)
    grown = grow_vessels(lungs, geometry, seed=1)
    assert least < grown.sum() / lungs.sum() < most
    reference = resample(the_vessels.astype(np.uint8), the_sample[1], geometry, labels=True)
    assert reference[grown].mean() > 0.3  # against 0.05 for the lungs


def test_thin_slabs_and_lone_lungs_get_vessels_too(the_sample):
    lungs, geometry = the_sample
    for window in (np.s_[70:73], np.s_[40:60]):
        slab = lungs[window]
        grown = grow_vessels(slab, geometry.crop((window.start, 0, 0), slab.shape), seed=1)
        assert 0.02 < grown.sum() / slab.sum() < 0.1
    right = lungs & (np.arange(lungs.shape[2]) < lungs.shape[2] // 2)
    assert 0.03 < grow_vessels(right, geometry, seed=1).sum() / right.sum() < 0.06


def test_what_is_too_small_for_a_lung_gets_none():
    geometry = Geometry.from_spacing((20, 40, 40), (1.0, 1.0, 2.0))
    lungs = np.zeros(geometry.shape, bool)
    assert not grow_vessels(lungs, geometry, seed=1).any()
    lungs[5:15, 10:30, 10:30] = True  # 8 ml
    assert not grow_vessels(lungs, geometry, seed=1).any()
    lone = np.zeros((1, 1, 1), bool)
    assert not grow_vessels(~lone, Geometry.from_spacing((1, 1, 1), (1, 1, 1)), seed=1).any()
