"""Geometry against values worked out by hand: where voxels lie, and that nothing moves them."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, geometry_of, resample, resample_labels, to_sitk
from Testing.geometries import GRIDS, SHAPE, grid, rotation


def at(geometry, i, j, k):
    return (geometry.ijk_to_ras @ [i, j, k, 1])[:3]


def test_an_axial_grid_runs_left_back_and_up():
    geometry = Geometry.from_spacing((3, 4, 5), (0.5, 2.0, 3.0), (10, 20, 30))
    assert at(geometry, 4, 3, 2) == pytest.approx((10 - 4 * 0.5, 20 - 3 * 2.0, 30 + 2 * 3.0))
    assert geometry.to_lps() @ [0, 0, 0, 1] == pytest.approx((-10, -20, 30, 1))
    assert geometry.voxel_ml == pytest.approx(0.5 * 2.0 * 3.0 / 1000)
    assert not geometry.is_left_handed and not geometry.is_sheared and geometry.slice_axis == 0


def test_an_oblique_grid():
    # a quarter turn about the vertical: i runs to the front, j to the left
    geometry = grid(rotation(90, 0) @ np.diag([1, 1, 1]), (2, 3, 5), (0, 0, 0))
    assert at(geometry, 1, 0, 0) == pytest.approx((0, 2, 0))
    assert at(geometry, 0, 1, 0) == pytest.approx((-3, 0, 0))
    assert at(geometry, 0, 0, 1) == pytest.approx((0, 0, 5))
    # 30 degrees about the horizontal: k leans to the back
    assert at(grid(rotation(0, 30), (1, 1, 2), (0, 0, 0)), 0, 0, 1) == pytest.approx((0, -1, np.sqrt(3)))


def test_handedness():
    assert [name for name, geometry in GRIDS.items() if geometry.is_left_handed] == ["left-handed", "feet first"]


def test_a_leaning_slice_stack_is_sheared():
    matrix = np.diag([-1.0, -1.0, 2.0, 1.0])
    matrix[1, 2] = 0.4  # gantry tilt
    assert Geometry(SHAPE, matrix).is_sheared
    assert not any(g.is_sheared for g in GRIDS.values())


def test_the_slice_axis_of_a_sagittal_stack_is_its_rows():
    assert GRIDS["sagittal"].slice_axis == 1


@pytest.mark.parametrize("name", GRIDS)
def test_a_crop_leaves_every_voxel_where_it_was(name):
    whole = GRIDS[name]
    part = whole.crop((2, 1, 3), (3, 4, 5))
    assert part.shape == (3, 4, 5)
    assert at(part, 1, 2, 0) == pytest.approx(at(whole, 4, 3, 2), abs=1e-9)
    assert np.subtract(part.lattice_origin(), whole.lattice_origin()).tolist() == [2, 1, 3]


@pytest.mark.parametrize("name", GRIDS)
def test_lattice_positions_do_not_depend_on_the_crop(name):
    rng = np.random.default_rng(0)
    whole = Geometry((600, 600, 600), GRIDS[name].ijk_to_ras)
    for start in rng.integers(-300, 500, (50, 3)):
        assert np.subtract(whole.crop(start, (4, 4, 4)).lattice_origin(), whole.lattice_origin()).tolist() == start.tolist()


@pytest.mark.parametrize("name", GRIDS)
def test_another_spacing_fills_the_same_box(name):
    old = GRIDS[name]
    new = old.with_spacing(old.spacing / [3, 1, 2])
    assert new.shape == (12, 7, 27)
    assert at(new, -0.5, -0.5, -0.5) == pytest.approx(at(old, -0.5, -0.5, -0.5), abs=1e-9)
    assert at(new, 26.5, 6.5, 11.5) == pytest.approx(at(old, 8.5, 6.5, 5.5), abs=1e-9)
    assert new.directions == pytest.approx(old.directions)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, np.nan, 1), (1, np.inf, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(UnusableInput, match="spacing"):
        GRIDS["axial"].with_spacing(spacing)


def test_a_transform_moves_the_grid_and_its_inverse_brings_it_back():
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation(30, 20), (5, -7, 11)
    moved = GRIDS["oblique"].transformed(move)
    assert at(moved, 3, 2, 1) == pytest.approx((move @ [*at(GRIDS["oblique"], 3, 2, 1), 1])[:3])
    assert moved.transformed(np.linalg.inv(move)).agrees_with(GRIDS["oblique"])
    assert not moved.agrees_with(GRIDS["oblique"])


def test_agreement_is_about_places_not_numbers():
    geometry = GRIDS["axial"]
    tilted = geometry.ijk_to_ras.copy()
    tilted[:3, 0] += (0, 1e-4, 0)  # a ten-thousandth of a millimetre per voxel: a millimetre at the far side of 10 000 voxels
    assert Geometry(SHAPE, tilted).agrees_with(geometry, tolerance=1e-3)
    assert not Geometry((6, 7, 9000), tilted).agrees_with(Geometry((6, 7, 9000), geometry.ijk_to_ras), tolerance=0.5)
    assert not Geometry((6, 7, 8), geometry.ijk_to_ras).agrees_with(geometry)


def test_geometry_that_is_none_is_refused():
    good = np.diag([1.0, 1, 1, 1])
    for broken, word in ((np.diag([1.0, 0, 1, 1]), "spacing"), (np.diag([1.0, np.nan, 1, 1]), "finite")):
        with pytest.raises(UnusableInput, match=word):
            Geometry(SHAPE, broken)
    singular = good.copy()
    singular[:3, 1] = singular[:3, 0]
    with pytest.raises(UnusableInput, match="singular"):
        Geometry(SHAPE, singular)
    with pytest.raises(UnusableInput, match="three-dimensional"):
        Geometry((4, 4), good)


@pytest.mark.parametrize("name", GRIDS)
def test_itk_and_back(name):
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = to_sitk(array, GRIDS[name])
    assert np.abs(geometry_of(image).ijk_to_ras - GRIDS[name].ijk_to_ras).max() < 1e-12
    lps = np.array(image.TransformIndexToPhysicalPoint((3, 2, 1)))
    assert lps * [-1, -1, 1] == pytest.approx(at(GRIDS[name], 3, 2, 1))
    assert image[3, 2, 1] == array[1, 2, 3]


# -- resampling ------------------------------------------------------------------------------------------------------------------------


def test_resampling_to_the_same_axes_in_another_order_changes_no_value():
    array = np.random.default_rng(0).normal(0, 300, (20, 30, 40)).astype(np.int16)
    source = Geometry.from_spacing(array.shape, (1, 1, 5))
    order = np.eye(4)[:, [2, 1, 0, 3]]
    turned = Geometry((40, 30, 20), source.ijk_to_ras @ order)
    assert np.array_equal(resample(array, source, turned), array.transpose(2, 1, 0))


def test_a_ramp_in_the_world_stays_a_ramp_on_every_grid():
    source = Geometry.from_spacing((40, 40, 40), (2, 2, 2), (39, 39, -39))
    k, j, i = np.mgrid[:40, :40, :40]
    world = np.einsum("rc,ckji->rkji", source.ijk_to_ras[:3], np.stack([i, j, k, np.ones_like(i)]))
    array = np.rint(10 * world[0] + 7 * world[2]).astype(np.int16)
    target = grid(rotation(25, 15), (1.3, 1.7, 2.2), (-12, -10, -9), shape=(8, 10, 12))
    k, j, i = np.mgrid[:8, :10, :12]
    world = np.einsum("rc,ckji->rkji", target.ijk_to_ras[:3], np.stack([i, j, k, np.ones_like(i)]))
    result = resample(array, source, target)
    assert np.abs(result - (10 * world[0] + 7 * world[2])).max() <= 1.5  # rounding of both
    assert abs(np.mean(result - (10 * world[0] + 7 * world[2]))) < 0.1  # rounded, not cut off


def test_noise_is_averaged_where_the_target_is_coarser():
    source = Geometry.from_spacing((24, 48, 48), (1, 1, 1))
    noise = np.random.default_rng(0).normal(0, 100, source.shape).astype(np.int16)
    assert resample(noise, source, source.with_spacing((3, 3, 3))).std() < 30
    # a single slice cannot be averaged along itself, and must not fail
    thin = Geometry.from_spacing((2, 48, 48), (1, 1, 5))
    assert resample(noise[:2], thin, thin.with_spacing((3, 3, 5))).shape == (2, 16, 16)


def test_labels_keep_their_values_and_outside_is_filled():
    array = np.zeros((6, 6, 6), np.uint16)
    array[2:4, 2:4, 2:4] = 700
    source = Geometry.from_spacing(array.shape, (2, 2, 2))
    wide = source.crop((-3, -3, -3), (12, 12, 12))
    result = resample(array, source, wide, labels=True)
    assert np.array_equal(result[3:9, 3:9, 3:9], array) and set(np.unique(result)) == {0, 700} and result.dtype == np.uint16
    air = resample(array.astype(np.int16), source, wide, outside=-1000)
    assert air[0, 0, 0] == -1000 and air[5, 5, 5] == 700


def two_balls(geometry):
    """A ball of radius 26 mm with another, of 20 mm, inside it; straight from the formula on any grid."""
    k, j, i = np.indices(geometry.shape)
    world = np.einsum("rc,ckji->rkji", geometry.ijk_to_ras[:3], np.stack([i, j, k, np.ones_like(i)]))
    radius = np.sqrt(((world - np.array([-43.0, -44.0, 29.0])[:, None, None, None]) ** 2).sum(axis=0))
    return np.where(radius < 20, 2, np.where(radius < 26, 700, 0)).astype(np.uint16)


@pytest.mark.parametrize("finer", [(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (3.0, 3.0, 1.25)])
def test_labels_on_a_finer_grid_lose_the_stairs(finer):
    source = Geometry.from_spacing((12, 30, 30), (3, 3, 5))
    target = source.with_spacing(finer)
    coarse, wanted = two_balls(source), two_balls(target)
    result = resample_labels(coarse, source, target)
    assert result.dtype == np.uint16 and set(np.unique(result)) == {0, 2, 700}
    wrong, wrong_stairs = (result != wanted).mean(), (resample(coarse, source, target, labels=True) != wanted).mean()
    assert wrong < 0.9 * wrong_stairs
    for value in (2, 700):
        assert (result == value).sum() == pytest.approx((wanted == value).sum(), rel=0.06)


def test_labels_on_a_finer_turned_grid():
    source = Geometry.from_spacing((12, 30, 30), (3, 3, 5))
    turned = grid(rotation(25, 15), (1.2, 1.4, 1.7), (0, 0, 0), shape=(60, 60, 60))
    move = np.eye(4)
    move[:3, 3] = source.ijk_to_ras[:3] @ [15, 15, 6, 1] - turned.ijk_to_ras[:3] @ [30, 30, 30, 1]  # centre upon centre
    target = turned.transformed(move)
    coarse, wanted = two_balls(source), two_balls(target)
    inside = resample(np.ones(source.shape, np.float32), source, target) > 0.5
    assert not resample_labels(coarse, source, target)[~inside].any()
    wrong = (resample_labels(coarse, source, target) != wanted)[inside].mean()
    assert 0 < wrong < 0.8 * (resample(coarse, source, target, labels=True) != wanted)[inside].mean()


def test_labels_at_the_border_and_one_voxel_thin_ones_survive_a_finer_grid():
    array = np.zeros((6, 8, 8), np.uint8)
    array[0], array[3:, 4, 4] = 1, 2  # a slice at the end of the grid, a line
    source = Geometry.from_spacing(array.shape, (2, 2, 2))
    result = resample_labels(array, source, source.with_spacing((1, 1, 1)))
    assert (result[:2] == 1).all() and (result == 2).any(axis=(1, 2))[7:].all()
    full = np.full(array.shape, 3, np.uint8)
    assert (resample_labels(full, source, source.with_spacing((1, 1, 1))) == 3).all()


def test_labels_on_a_coarser_grid_are_those_of_the_nearest_voxel():
    source = Geometry.from_spacing((12, 30, 30), (3, 3, 5))
    target = source.with_spacing((6, 5, 7))
    assert np.array_equal(resample_labels(two_balls(source), source, target), resample(two_balls(source), source, target, labels=True))


# -- label maps ------------------------------------------------------------------------------------------------------------------------


def masks():
    whole, part = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    whole[1:5, 1:6, 1:8] = True
    part[2:4, 2:4, 2:4] = True
    return whole, part


def test_the_finer_structure_wins_whatever_the_order():
    whole, part = masks()
    lungs, nodule = Segment(1, "lungs"), Segment(2, "nodule")
    rank = {"lungs": 1, "nodule": 2}
    for order in ([(lungs, whole), (nodule, part)], [(nodule, part), (lungs, whole)]):
        labelmap = LabelMap.from_masks(GRIDS["axial"], order, rank=lambda segment: rank[segment.name])
        assert np.array_equal(labelmap.mask(nodule), part) and np.array_equal(labelmap.mask(lungs), whole & ~part)


def test_among_equals_the_later_segment_wins():
    whole, part = masks()
    first = LabelMap.from_masks(GRIDS["axial"], [(Segment(1, "a"), whole), (Segment(2, "b"), part)])
    last = LabelMap.from_masks(GRIDS["axial"], [(Segment(2, "b"), part), (Segment(1, "a"), whole)])
    assert first.mask(first.segments[1]).sum() == part.sum() and not last.mask(last.segments[1]).any()


def test_a_part_of_the_grid_is_put_where_it_belongs():
    _, part = masks()
    labelmap = LabelMap.from_masks(GRIDS["axial"], [(Segment(9, "a"), np.ones((2, 2, 2), bool), (2, 2, 2))])
    assert np.array_equal(labelmap.array == 9, part)


def test_segments_need_values_of_their_own():
    for values in ((1, 1), (0, 1)):
        with pytest.raises(UnusableInput, match="value"):
            LabelMap(np.zeros(SHAPE, np.uint16), GRIDS["axial"], tuple(Segment(v, "x") for v in values))


def test_labels_too_large_to_count_on_are_renumbered_and_kept():
    geometry = Geometry.from_spacing((1, 1, 5), (1, 1, 1))
    for dtype, labels in ((np.int64, [0, 1, 70_000, 3, 9]), (np.uint16, [0, 1, 60_000, 3, 9])):
        large = labels[2]
        segments = [Segment(1, "a"), Segment(large, "b"), Segment(3, "c")]
        labelmap = LabelMap.from_labels(np.array([[labels]], dtype), geometry, segments)
        assert labelmap.array.tolist() == [[[0, 1, 2, 3, 0]]]  # 9 is no segment's
        assert labelmap.labels.tolist() == [[[0, 1, large, 3, 0]]]
        assert [(s.value, s.label) for s in labelmap.segments] == [(1, 1), (2, large), (3, 3)]
        masks = [(s, np.array([[labels]]) == s.value) for s in segments]
        assert np.array_equal(LabelMap.from_masks(geometry, masks).labels, labelmap.labels)


@pytest.mark.parametrize(("voxel", "value"), [(70_000, 1), (1, 5000), (1, -1)])
def test_a_label_map_of_labels_that_are_no_index_is_refused(voxel, value):
    with pytest.raises(UnusableInput, match="from_labels"):
        LabelMap(np.full((1, 1, 5), voxel), Geometry.from_spacing((1, 1, 5), (1, 1, 1)), (Segment(value, "a"),))


def test_more_labels_than_can_be_counted_on_are_refused():
    segments = [Segment(value, "a") for value in range(1, 5000)]
    with pytest.raises(UnusableInput, match="4999 labels"):
        LabelMap.from_labels(np.ones((1, 1, 5), int), Geometry.from_spacing((1, 1, 5), (1, 1, 1)), segments)


def test_a_voxel_larger_than_the_box_lies_about_its_middle():
    thin = Geometry.from_spacing((2, 6, 6), (2.0, 2.0, 0.5))
    coarse = thin.with_spacing((2.0, 2.0, 4.0))
    assert coarse.shape == (1, 6, 6) and resample(np.full(thin.shape, 40, np.int16), thin, coarse, outside=-1000).min() == 40
