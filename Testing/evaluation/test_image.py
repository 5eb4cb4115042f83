"""Voxel-wise errors against cases worked out by hand."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation.image import mae, psnr, ssim


@pytest.fixture
def scans():
    real = np.random.default_rng(0).normal(0, 60, (6, 40, 40))
    body = np.zeros(real.shape, bool)
    body[1:5, 8:32, 8:32] = True
    return real, body


def test_a_shift_inside_the_body_alone_counts(scans):
    real, body = scans
    synthetic = np.where(body, real + 20, real + 900)
    assert mae(synthetic, real, body) == pytest.approx(20, rel=1e-4)
    assert psnr(synthetic, real, body) == pytest.approx(40, rel=1e-4), "20 of 2000 HU is a hundredth: 40 dB"


def test_metal_beyond_the_window_does_not_count(scans):
    real, body = scans
    assert mae(np.where(real > 0, 3000, real), np.where(real > 0, 1000, real), body) == 0


def test_ssim_of_a_constant_shift_is_its_luminance_term(scans):
    _, body = scans
    flat = np.zeros(body.shape)
    c1 = (0.01 * 2000) ** 2
    assert ssim(flat + 40, flat + 20, body) == pytest.approx((2 * 40 * 20 + c1) / (40**2 + 20**2 + c1), rel=1e-5)


def test_ssim_falls_with_blur_and_with_noise_and_is_one_for_equal_scans(scans):
    real, body = scans
    assert ssim(real, real, body) == pytest.approx(1)
    assert ssim(np.zeros_like(real), real, body) < 0.6
    assert ssim(real[::-1], real, body) < 0.6


def test_ssim_at_a_voxel_is_the_published_formula_in_a_gaussian_window_of_eleven_pixels(scans):
    real, body = scans
    synthetic = 0.7 * real + np.random.default_rng(1).normal(10, 30, real.shape)
    here = np.zeros_like(body)
    here[3, 20, 17] = True
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    a, b = (hu[3, 15:26, 12:23] for hu in (synthetic, real))
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b, both = ((window * x * y).sum() - m for x, y, m in ((a, a, mean_a**2), (b, b, mean_b**2), (a, b, mean_a * mean_b)))
    c1, c2 = 20**2, 60**2
    expected = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim(synthetic, real, here) == pytest.approx(expected, rel=1e-3)


def test_without_a_body_nothing_is_measured(scans):
    real, body = scans
    assert all(np.isnan(metric(real, real, np.zeros_like(body))) for metric in (mae, psnr, ssim))
    assert psnr(real, real, body) == np.inf
