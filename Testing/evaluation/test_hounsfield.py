"""Figures of HU distributions against cases worked out by hand."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation.hounsfield import compare, per_structure


def test_a_shift_is_signed_and_is_the_wasserstein_distance():
    real = np.tile(np.array([-10, 0, 0, 30], np.int16), 25)
    found = compare(real + 12, real)
    assert found == pytest.approx({"median_error": 12, "mean_error": 12, "spread_ratio": 1, "wasserstein": 12, "voxels": 100})
    assert compare(real - 5, real)["median_error"] == -5


def test_spread_and_histogram_are_seen_where_mean_and_median_agree():
    real, synthetic = np.tile([-20, 20], 50), np.tile([-5, 5], 50)
    found = compare(synthetic, real)
    assert found["median_error"] == found["mean_error"] == 0
    assert found["spread_ratio"] == pytest.approx(0.25)
    assert found["wasserstein"] == pytest.approx(15)


def test_median_is_not_mean():
    real, synthetic = np.zeros(100), np.repeat([0, 100], [75, 25])
    found = compare(synthetic, real)
    assert found["median_error"] == 0 and found["mean_error"] == 25 and found["wasserstein"] == 25
    assert np.isnan(found["spread_ratio"]), "a real structure without spread gives no ratio"


def test_samples_of_two_persons_may_differ_in_size():
    assert compare(np.tile([0, 100], 10), np.tile([0, 100], 1000))["wasserstein"] == pytest.approx(0)


def test_each_structure_is_measured_in_its_own_mask():
    real = np.zeros((4, 10, 10), np.int16)
    synthetic = real.copy()
    masks = {name: np.zeros(real.shape, bool) for name in ("liver", "heart", "tiny", "none")}
    masks["liver"][:2], masks["heart"][2:], masks["tiny"][0, 0, :5] = True, True, True
    synthetic[2:] = 40
    rows = per_structure(synthetic, real, masks)
    assert rows["liver"]["median_error"] == 0 and rows["heart"]["median_error"] == 40 and rows["heart"]["voxels"] == 200
    assert all(np.isnan(rows[name]["wasserstein"]) for name in ("tiny", "none")) and rows["tiny"]["voxels"] == 5
