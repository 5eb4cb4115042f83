"""Coherence of volumes whose neighbours, slopes and block borders are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from CTSynthesisLib.evaluation.coherence import border_jump, gradient_energy_ratio, neighbour_change

SHAPE = (64, 96, 128)


@pytest.fixture(scope="module")
def grain():
    noise = gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), (1, 1, 1))
    return 12 * noise / noise.std()


EVERYWHERE = np.ones(SHAPE, bool)


def test_change_along_each_axis_of_a_ramp():
    k, j, i = np.indices((10, 20, 30))
    ramp = 3 * i - 2 * j + 7 * k
    assert neighbour_change(ramp, np.ones(ramp.shape, bool)) == pytest.approx({"i": 3, "j": 2, "k": 7})
    assert gradient_energy_ratio(ramp, np.ones(ramp.shape, bool), (0.5, 2.0, 7.0)) == pytest.approx(1 / ((36 + 1) / 2))


def test_pairs_that_leave_the_mask_do_not_count():
    hu = np.zeros((4, 8, 8), np.int16)
    mask = np.zeros(hu.shape, bool)
    mask[1:3, 2:6, 2:6] = True
    hu[~mask] = -1000
    assert neighbour_change(hu, mask) == {"i": 0, "j": 0, "k": 0}
    single = np.zeros(hu.shape, bool)
    single[0, 0, 0] = True
    assert all(np.isnan(value) for value in neighbour_change(hu, single).values())
    assert np.isnan(gradient_energy_ratio(hu, single, (1, 1, 1)))


def test_slices_made_one_by_one_are_told_from_a_volume(grain):
    one_by_one = gaussian_filter(np.random.default_rng(2).standard_normal(SHAPE), (0, 1, 1))
    coherent, apart = neighbour_change(grain, EVERYWHERE), neighbour_change(one_by_one, EVERYWHERE)
    assert coherent["k"] == pytest.approx(coherent["i"], rel=0.05)
    assert apart["k"] > 1.8 * apart["i"]
    assert gradient_energy_ratio(grain, EVERYWHERE, (1, 1, 1)) == pytest.approx(1, rel=0.1)
    assert gradient_energy_ratio(one_by_one, EVERYWHERE, (1, 1, 1)) > 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_between_blocks_is_found_along_each_axis_and_only_there(grain, axis):
    shape = [1, 1, 1]
    shape[axis] = -1
    blocks = (np.arange(SHAPE[axis]) // 32 % 2).reshape(shape)
    borders = {axis: range(32, SHAPE[axis], 32)}
    assert border_jump(8.0 * np.broadcast_to(blocks, SHAPE), borders, EVERYWHERE) == pytest.approx(8)
    assert 5 < border_jump(grain + 8 * blocks, borders, EVERYWHERE) < 8
    assert abs(border_jump(grain, borders, EVERYWHERE)) < 0.4
    assert abs(border_jump(grain + 8 * blocks, {axis: [20, 44]}, EVERYWHERE)) < 0.6


def test_a_slope_is_no_step():
    ramp = np.broadcast_to(5.0 * np.arange(SHAPE[2]), SHAPE)
    assert border_jump(ramp, {2: [32, 64, 96]}, EVERYWHERE) == pytest.approx(0, abs=1e-4)
    steps = ramp + 3.0 * (np.arange(SHAPE[2]) // 32 % 2)  # up, down, up on the way up
    assert border_jump(steps, {2: [32, 64, 96]}, EVERYWHERE) == pytest.approx(3), "and hides none"


def test_borders_outside_the_mask_cannot_be_measured(grain):
    assert np.isnan(border_jump(grain, {2: [64]}, np.zeros(SHAPE, bool)))
    assert np.isnan(border_jump(grain, {}, EVERYWHERE))
