"""Noise spectra of synthetic noise whose spectrum is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from CTSynthesisLib.evaluation.texture import even_interior, noise_spectrum, spectrum_difference, spectrum_distance

SPACING = (0.8, 0.8, 2.0)
SHAPE = (12, 160, 160)
EVERYWHERE = np.ones(SHAPE, bool)


def noise(seed=0, spread=20.0, blur=0.0):
    """White noise, blurred by ``blur`` mm in the slice (its spread before the blur)."""
    white = spread * np.random.default_rng(seed).standard_normal(SHAPE)
    return gaussian_filter(white, (0, blur / 0.8, blur / 0.8), mode="wrap", truncate=6)


def test_white_noise_has_its_variance_times_a_pixel_at_all_frequencies():
    frequency, power = noise_spectrum(noise(), EVERYWHERE, SPACING)
    assert frequency[0] == pytest.approx(2 / 18, rel=0.05) and frequency[-1] <= 0.5 / 0.8
    np.testing.assert_allclose(power, 400 * 0.64, rtol=0.06)


def test_a_blur_takes_what_its_transfer_function_says():
    blur = 0.6
    frequency, power = noise_spectrum(noise(blur=blur), EVERYWHERE, SPACING)
    expected = 400 * 0.64 * np.exp(-((2 * np.pi * blur * frequency) ** 2))
    usable = expected > 0.05 * expected[0]
    assert usable.sum() >= 6
    np.testing.assert_allclose(power[usable], expected[usable], rtol=0.15)


def test_slow_slopes_leave_the_spectrum_as_it_is():
    _, j, i = np.indices(SHAPE)
    _, expected = noise_spectrum(noise(), EVERYWHERE, SPACING)
    _, power = noise_spectrum(noise() + 2.0 * i - 1.0 * j, EVERYWHERE, SPACING)
    np.testing.assert_allclose(power, expected, rtol=1e-6)


def test_nothing_outside_the_mask_is_seen():
    mask = np.zeros(SHAPE, bool)
    mask[:, 13:150, 22:131] = True
    _, power = noise_spectrum(np.where(mask, noise(), -1000), mask, SPACING)
    np.testing.assert_allclose(power, 400 * 0.64, rtol=0.08)


def test_pixels_need_not_be_square():
    frequency, power = noise_spectrum(noise(), EVERYWHERE, (0.6, 1.0, 2.0))
    assert frequency[-1] <= 0.5
    np.testing.assert_allclose(power, 400 * 0.6, rtol=0.08)


def test_a_distance_is_the_log_ratio_of_the_power():
    assert spectrum_distance(noise(3), noise(4), EVERYWHERE, SPACING) < 0.08
    assert spectrum_distance(noise(3, spread=40), noise(4), EVERYWHERE, SPACING) == pytest.approx(np.log(4), abs=0.06)
    assert spectrum_distance(noise(3, spread=10), noise(4), EVERYWHERE, SPACING) == pytest.approx(np.log(4), abs=0.06)


def test_noise_of_the_same_spread_but_another_kernel_is_told_apart():
    sharp, soft = noise(5), noise(6, blur=0.7)
    assert spectrum_distance(soft * (sharp.std() / soft.std()), sharp, EVERYWHERE, SPACING) > 0.8


def test_what_nobody_sees_makes_no_distance():
    assert spectrum_distance(noise(7, spread=0.1), np.zeros(SHAPE), EVERYWHERE, SPACING) < 0.02


def test_grids_are_compared_at_the_frequencies_that_both_have():
    fine = np.linspace(0.1, 0.9, 17), np.linspace(1700, 100, 17)
    coarse = np.linspace(0.2, 0.5, 4), 2 * np.interp(np.linspace(0.2, 0.5, 4), *fine)
    assert spectrum_difference(fine, coarse) == pytest.approx(np.log(2), abs=0.01)
    assert spectrum_difference(coarse, fine) == pytest.approx(np.log(2), abs=0.01)
    assert np.isnan(spectrum_difference(fine, (np.array([2.0]), np.array([1.0]))))


def test_even_tissue_excludes_borders_and_vessels_but_not_noise():
    hu = noise(8, spread=25)
    mask = np.zeros(SHAPE, bool)
    mask[:, 20:140, 20:140] = True
    assert not even_interior(hu, mask, SPACING)[:, 20:22].any(), "not even where no edge is seen"
    hu[:, :20] = -1000
    hu[:, 70:84, 70:84] += 120  # a vessel of 11 mm
    even = even_interior(hu, mask, SPACING)
    assert not (even & ~mask).any() and not even[:, :22].any() and not even[:, 20:140, 20].any()
    assert even[:, 40:60, 40:60].mean() > 0.98
    assert even[:, 68:72, 74:80].mean() < 0.1


def test_too_little_even_tissue_gives_no_figure():
    small = np.zeros(SHAPE, bool)
    small[:, 10:20, 10:20] = True
    assert np.isnan(noise_spectrum(noise(), small, SPACING)[1]).all()
    assert np.isnan(spectrum_distance(noise(1), noise(2), small, SPACING))
    assert not even_interior(noise(), np.zeros(SHAPE, bool), SPACING).any()
