"""Grain as it was measured: spectra by hand, and the shipped model brought to a scan's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.synthesis import grain, mask_cgan
from CTSynthesisLib.synthesis.condition import AIR, SOFT, Condition, Scan
from CTSynthesisLib.synthesis.noise import lattice_noise
from CTSynthesisLib.synthesis.request import Grain, Request
from CTSynthesisLib.synthesis.spectrum import cross_spectra, noise_spectrum

SPACING = (0.9, 0.9, 2.5)


def a_scan(soft, shared, spread=15.0, shape=(6, 160, 160)):
    """White noise blurred by ``soft`` pixels, of which neighbouring slices share some; HU."""
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(3).standard_normal((shape[0] + 1, *shape[1:]))
    smooth = np.stack([gaussian_filter(one, soft) for one in white])
    smooth *= spread / smooth.std()
    return 50 + np.sqrt(1 - shared) * smooth[1:] + np.sqrt(shared) * smooth[:-1]


def test_white_noise_has_the_same_power_everywhere_and_twice_that_between_slices():
    hu = np.random.default_rng(0).normal(0, 10, (6, 120, 120))
    found = grain.measured([(hu, np.ones(hu.shape, bool))], SPACING)
    np.testing.assert_allclose(found.power, 10**2 * 0.81, rtol=0.15)
    np.testing.assert_allclose(found.change, 2 * 10**2 * 0.81, rtol=0.15)
    assert max(found.frequency) > 0.5 / 0.9  # as far as the diagonal


def test_cross_spectra_of_parts_add_up_to_the_spectrum_of_their_sum():
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 5, (2, 3, 90, 90))
    mask = np.ones(one.shape, bool)
    _, power = cross_spectra([one, one + other], mask, SPACING)
    np.testing.assert_allclose(power.sum((0, 1)), noise_spectrum(2 * one + other, mask, SPACING)[1], rtol=1e-6)


def test_too_little_even_tissue_is_no_grain():
    hu = np.zeros((4, 30, 30))
    assert grain.measured([(hu, np.zeros(hu.shape, bool))], SPACING) is None


def test_softening_keeps_the_spread():
    noise = lattice_noise(1, (0, 0, 0), (4, 128, 128))
    for soft in (0.0, 0.4, 0.9):
        after = grain.Correction(torch.ones(5), torch.zeros(5), soft).noise(noise)
        np.testing.assert_allclose(after.std((1, 2, 3)), noise.std((1, 2, 3)), rtol=0.05)
    assert grain.Correction(torch.ones(5), torch.zeros(5), 0.0).noise(noise).equal(noise)


@pytest.mark.parametrize(("soft", "shared"), [(0.6, 0.1), (0.8, 0.4)])
def test_the_default_model_draws_the_grain_it_is_told(soft, shared):
    """In even tissue the spectra come far nearer to the scan's, in the slice and between slices, than without the correction."""
    scan = a_scan(soft, shared)
    wanted = grain.measured([(scan, np.ones(scan.shape, bool))], SPACING)
    engine = mask_cgan.load(load_card("default"), "cpu")
    tables = np.array([AIR, SOFT]), np.array([-1000, 50], np.float32), np.array([True, True])
    condition = Condition(np.ones((14, 176, 176), np.uint8), *tables, Scan(SPACING, 15.0, 0.4, 0.5, wanted))
    inner = np.s_[4:-4, 28:-28, 28:-28]

    def distance(condition):
        hu = engine.generate(condition, (0, 0, 0), seed=1)[inner]
        drawn = grain.measured([(hu, np.ones(hu.shape, bool))], SPACING)
        whole = np.array(wanted.frequency) < 0.5 / 0.9
        return [np.abs(np.log(np.array(a) / b))[whole].mean() for a, b in ((drawn.power, wanted.power), (drawn.change, wanted.change))]

    corrected, plain = distance(condition), distance(replace(condition, scan=replace(condition.scan, grain=None)))
    assert max(corrected) < 0.6 and max(corrected) < 0.6 * max(plain), (corrected, plain)


def test_the_air_around_a_body_gets_no_grain():
    """A scan four times as noisy as the model: soft tissue gets more grain, the air outside nothing."""
    scan = a_scan(0.6, 0.3, spread=60.0)
    wanted = grain.measured([(scan, np.ones(scan.shape, bool))], SPACING)
    values = np.ones((10, 112, 112), np.uint8)
    values[:, :, :56] = 0
    tables = np.array([AIR, SOFT]), np.array([-1000, 50], np.float32), np.array([True, True])
    engine = mask_cgan.load(load_card("default"), "cpu")
    conditions = [Condition(values, *tables, Scan(SPACING, 15.0, 0.4, 0.5, told)) for told in (wanted, None)]
    noisy, plain = (engine.generate(condition, (0, 0, 0), seed=1) for condition in conditions)
    assert noisy[:, :, 80:].std() > 1.5 * plain[:, :, 80:].std()
    assert noisy[:, :, :30].std() < plain[:, :, :30].std() + 1


def test_a_request_carries_it_through_json():
    request = Request(grain=Grain((0.1, 0.2), (5.0, 3.0), None))
    assert Request.from_json(request.to_json()) == request
