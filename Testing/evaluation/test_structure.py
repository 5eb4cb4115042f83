"""Vessels, bone and body composition of phantoms whose structure is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from CTSynthesisLib.evaluation.structure import bone_profile, fat_muscle, lung_vessels, profile_distance

SPACING = (1.0, 1.0, 2.0)
SHAPE = (60, 90, 100)


@pytest.fixture(scope="module")
def lungs():
    mask = np.zeros(SHAPE, bool)
    mask[5:55, 10:80, 10:90] = True
    return mask


@pytest.fixture(scope="module")
def tree():
    """Two Y-shaped vessels of 8 x 8 mm, 80 mm high; their arms part half way up."""
    mask = np.zeros(SHAPE, bool)
    for k in range(10, 50):
        apart = max(0, (k - 30) // 2 * 2)
        for centre in (32, 68):
            for side in (-1, 1):
                mask[k, 41:49, centre + side * apart - 4 : centre + side * apart + 4] = True
    return mask


def lung_scan(lungs, vessels, spread=20.0, seed=0):
    return np.where(vessels, 20, np.where(lungs, -850, 40)) + spread * np.random.default_rng(seed).standard_normal(SHAPE)


def test_volume_length_and_branches_of_a_known_tree(lungs, tree):
    faint = np.where(tree, -450, lung_scan(lungs, tree))  # 400 HU above the lung: the border of vessels is at 200
    found = lung_vessels(faint, lungs, SPACING)
    inner = (100 - 6) * (70 - 6) * (80 - 6)  # mm3, without 3 mm below the pleura
    assert found["volume_fraction"] == pytest.approx(tree.sum() * 2 / inner, rel=0.2), "the blur rounds corners off"
    assert found["length_mm"] == pytest.approx(80, abs=4)
    assert 2 <= round(found["branches"] * inner / 1000 / 100) <= 6, "each of the two trees forks once; a skeleton may add a spur"
    trunks_and_arms = 2 * (40 + 2 * np.hypot(40, 18))
    assert found["skeleton_mm_per_ml"] * inner / 1000 == pytest.approx(trunks_and_arms, rel=0.3)


def test_vessels_that_do_not_continue_lose_their_length_not_their_volume(lungs, tree):
    broken = tree.copy()
    for n, start in enumerate(range(0, SHAPE[0], 4)):
        broken[start : start + 4] = np.roll(tree[start : start + 4], 30 * (n % 2) - 15, 1)
    whole, apart = (lung_vessels(lung_scan(lungs, vessels), lungs, SPACING) for vessels in (tree, broken))
    assert apart["volume_fraction"] == pytest.approx(whole["volume_fraction"], rel=0.2)
    assert apart["length_mm"] < 0.2 * whole["length_mm"]


@pytest.mark.parametrize("spacing", [SPACING, (1.5, 1.5, 1.5)])
def test_white_noise_does_not_pass_for_vessels(lungs, spacing):
    nothing = np.zeros_like(lungs)
    found = lung_vessels(lung_scan(lungs, nothing, spread=200), lungs, spacing)
    assert found["volume_fraction"] < 0.001 and found["length_mm"] < 10


def test_specks_are_not_vessels(lungs):
    specks = np.zeros_like(lungs)
    specks[12:14, 30:34, 20:24] = specks[30:32, 50:54, 60:64] = True  # 0.064 ml each
    assert lung_vessels(np.where(specks, -500, lung_scan(lungs, specks)), lungs, SPACING)["volume_fraction"] == 0
    nodule = np.zeros_like(lungs)
    nodule[30:34, 50:58, 60:68] = True  # 0.5 ml
    assert lung_vessels(lung_scan(lungs, nodule), lungs, SPACING)["volume_fraction"] > 0


def test_blobs_of_coarse_noise_have_no_length(lungs, tree):
    coarse = gaussian_filter(np.random.default_rng(3).standard_normal(SHAPE), (0, 2, 2))
    found = lung_vessels(np.where(lungs, -830 + 150 * coarse / coarse.std(), 40), lungs, SPACING)
    assert found["length_mm"] < 0.3 * lung_vessels(lung_scan(lungs, tree), lungs, SPACING)["length_mm"]


def test_holes_that_a_threshold_left_along_vessels_do_not_hide_them(lungs, tree):
    scan = lung_scan(lungs, tree)
    with_holes = lung_vessels(scan, lungs & ~tree, SPACING)
    assert with_holes["volume_fraction"] == pytest.approx(lung_vessels(scan, lungs, SPACING)["volume_fraction"], rel=0.05)


def test_walls_just_below_the_pleura_are_not_vessels(lungs):
    scan = lung_scan(lungs, np.zeros_like(lungs))
    scan[:, 10:12] = scan[:, 78:80] = 40  # 2 mm of chest wall inside the mask
    assert lung_vessels(scan, lungs, SPACING)["volume_fraction"] < 0.001


def test_a_grid_of_thick_slices_gives_nearly_the_same(lungs, tree):
    fine = lung_vessels(lung_scan(lungs, tree), lungs, SPACING)
    thick = lung_vessels(lung_scan(lungs, tree)[::2], lungs[::2], (1.0, 1.0, 4.0))
    assert thick["volume_fraction"] == pytest.approx(fine["volume_fraction"], rel=0.15)
    assert thick["length_mm"] == pytest.approx(fine["length_mm"], rel=0.15)


def test_without_lungs_there_is_no_figure(lungs):
    assert all(np.isnan(v) for v in lung_vessels(np.zeros(SHAPE), np.zeros(SHAPE, bool), SPACING).values())


def test_cortex_and_marrow_of_a_known_cylinder():
    j, i = np.indices((60, 60))
    depth = 20 - 0.5 * np.hypot(j - 29.5, i - 29.5)  # mm below the surface, pixels of 0.5 mm; the radius is beyond the image
    depth -= 6
    bone = np.broadcast_to(depth > 0, (40, 60, 60))
    hu = np.broadcast_to(np.where(depth < 2, 900, 150), bone.shape)
    profile = bone_profile(hu, bone, (0.5, 0.5, 1.0))
    assert profile == pytest.approx([900, 900, 150, 150, 150, 150])
    flat = bone_profile(np.full(bone.shape, 400), bone, (0.5, 0.5, 1.0))
    assert profile_distance(profile, flat) == pytest.approx((500 * 2 + 250 * 4) / 6)


def test_thin_bone_has_no_depth_to_compare():
    bone = np.zeros((20, 40, 40), bool)
    bone[:, 10:14] = True  # 2.8 mm thick
    profile = bone_profile(np.full(bone.shape, 700), bone, (0.7, 0.7, 1.0))
    assert profile[:1] == pytest.approx([700]) and np.isnan(profile[2:]).all()
    assert profile_distance(profile, np.array([600, 600, 100, 100, 100, 100])) == pytest.approx(100)
    assert np.isnan(bone_profile(np.zeros(bone.shape), np.zeros(bone.shape, bool), (1, 1, 1))).all()
    assert np.isnan(profile_distance(profile, np.full(6, np.nan)))


def test_depth_counts_millimetres_along_each_axis_and_no_cortex_where_the_scan_ends():
    k = np.arange(20)[:, None, None]
    plate = np.broadcast_to((k >= 4) & (k < 14), (20, 40, 40))  # ten slices of 1.5 mm
    hu = np.broadcast_to(np.where((k == 4) | (k == 13), 900, 150), plate.shape)
    assert bone_profile(hu, plate, (0.5, 0.5, 1.5))[[1, 2, 4, 5]] == pytest.approx([900, 150, 150, 150])
    through = np.zeros((2, 60, 60), bool)
    through[:, 10:50] = True  # 20 mm thick, cut by both ends of the scan
    assert np.isfinite(bone_profile(np.full(through.shape, 300), through, (0.5, 0.5, 1.0))).all()


def test_a_large_skeleton_is_measured_in_slabs_without_seams(monkeypatch):
    from CTSynthesisLib.evaluation import structure

    rng = np.random.default_rng(0)
    bone = gaussian_filter(rng.standard_normal((40, 50, 50)), 4) > 0
    hu = 100 * gaussian_filter(rng.standard_normal(bone.shape), 2)
    whole = bone_profile(hu, bone, (1, 1, 1.5))
    monkeypatch.setattr(structure, "SLAB", 7 * 2500)
    np.testing.assert_array_equal(bone_profile(hu, bone, (1, 1, 1.5)), whole)


def test_fat_and_muscle_are_fractions_of_the_body():
    hu, body = np.full((4, 60, 60), -1000.0), np.zeros((4, 60, 60), bool)
    body[:, 10:50, 10:50] = True
    hu[:, 10:50, 10:50] = -50
    hu[:, 20:40, 10:50] = 50
    found = fat_muscle(hu, body, (2.0, 2.0, 5.0))
    assert found["fat"] == pytest.approx(0.5, abs=0.06) and found["muscle"] == pytest.approx(0.5, abs=0.06)
    assert fat_muscle(np.where(body, -40, -1000), body, (2.0, 2.0, 5.0))["fat"] == 1, "the air around does not count"
    assert np.isnan(fat_muscle(hu, np.zeros_like(body), (2, 2, 5))["fat"])


def test_noise_around_one_value_is_not_two_tissues():
    hu = np.random.default_rng(0).normal(30, 60, (4, 80, 80))
    found = fat_muscle(hu, np.ones(hu.shape, bool), (0.8, 0.8, 2.0))
    assert found["fat"] < 0.01 and found["muscle"] > 0.99
