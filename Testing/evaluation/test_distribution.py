"""Fréchet distance by hand, and features of slices."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.distribution import all_planes, frechet, frechet_interval, real_against_real, reduced, slice_features
from CTSynthesisLib.volume import Volume, reorder
from Testing.evaluation.segmenters import a_person, save_random_segmenter


@pytest.fixture(scope="module")
def a_segmenter(tmp_path_factory):
    return save_random_segmenter(tmp_path_factory.mktemp("models"))


def exact(mean, covariance, n=400):
    """Points whose sample mean and covariance are exactly those given."""
    points = np.random.default_rng(0).normal(size=(n, len(mean)))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return points @ np.linalg.cholesky(np.array(covariance, float)).T + mean


def test_all_features_count_where_there_are_enough_slices_and_it_is_told_where_not():
    rng = np.random.default_rng(0)
    a, b = ([rng.normal(0, spread, (200, 96)) for _ in range(2)] for spread in (1, 4))  # |Δσ|² over 96 features: 864
    enough = frechet_interval(a, b, samples=4)
    assert enough["dimensions"] == 96 and enough["frechet"] == pytest.approx(864, rel=0.15)
    few = frechet_interval(a, b, n=96, samples=4)
    assert few["dimensions"] == 64 and real_against_real(a, n=96, splits=2)["dimensions"] == 64
    assert [one.shape[1] for one in reduced([a[0][:, :32]], [], 10)[0]] == [32]  # the re-segmenter's are few already


def test_frechet_of_known_gaussians():
    # commuting covariances: the distance is |Δμ|² + Σ (σa - σb)²
    a = exact([1.0, -2.0], [[4, 0], [0, 1]])
    b = exact([4.0, 2.0], [[1, 0], [0, 9]])
    assert frechet(a, b) == pytest.approx(3**2 + 4**2 + (2 - 1) ** 2 + (1 - 3) ** 2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    # not commuting: tr (Ca Cb)^½ of Ca = [[2, 1], [1, 2]], Cb = diag(1, 4): det = 12, trace of the product 10, so √(10 + 2 √12)
    c, d = exact([0, 0], [[2, 1], [1, 2]]), exact([0, 0], [[1, 0], [0, 4]])
    assert frechet(c, d) == pytest.approx(4 + 5 - 2 * np.sqrt(10 + 2 * np.sqrt(12)))


def test_the_interval_holds_the_distance_and_tells_apart():
    rng = np.random.default_rng(1)
    persons = [rng.normal(rng.normal(0, 0.3), 1, (30, 4)) for _ in range(12)]
    far = [person + 3 for person in persons[6:]]
    near, away = frechet_interval(persons[:6], persons[6:]), frechet_interval(persons[:6], far)
    assert near["low"] <= near["frechet"] <= near["high"]
    assert near["high"] < away["low"]
    assert near["n"] == away["n"] == 180
    assert frechet_interval(persons[:6], persons[6:]) == near


def test_few_slices_are_compared_with_as_few():
    rng = np.random.default_rng(2)
    few, many = [rng.normal(size=(20, 4))], [rng.normal(size=(300, 4))]
    assert frechet_interval(few, many)["n"] == 20
    assert real_against_real([rng.normal(size=(40, 4)) for _ in range(4)], n=25)["n"] == 25


def test_real_against_real_needs_two_persons():
    with pytest.raises(UnusableInput, match="two persons"):
        real_against_real([np.zeros((9, 4))])


def test_features_see_noise_and_anatomy_in_each_plane(a_segmenter):
    person, noisy, other = a_person(0), a_person(0, noise=90), a_person(5)
    plain = all_planes(person, model=a_segmenter)
    for changed in (noisy, other):
        for plane, features in all_planes(changed, model=a_segmenter).items():
            assert features.shape[1] == 32 and len(features) >= 8
            assert np.isfinite(features).all()
            assert np.abs(features.mean(0) - plain[plane].mean(0)).max() > 0.004


def test_features_do_not_depend_on_how_the_volume_is_stored(a_segmenter):
    person = a_person(3)
    axes, flips = (2, 0, 1), (False, True, True)
    turned = Volume(np.ascontiguousarray(reorder(person.array, axes, flips)), person.geometry.reordered(axes, flips))
    expected = slice_features(person, "coronal", model=a_segmenter)
    np.testing.assert_allclose(slice_features(turned, "coronal", model=a_segmenter), expected, atol=1e-3)


def test_air_has_no_slices(a_segmenter):
    person = a_person(0)
    nothing = Volume(np.full_like(person.array, -1000), person.geometry)
    found = all_planes(nothing, model=a_segmenter)
    assert all(features.shape[1] == 32 for features in found.values())


def test_an_unknown_plane_is_told(a_segmenter):
    with pytest.raises(UnusableInput, match="'oblique'.*axial"):
        slice_features(a_person(0), "oblique", model=a_segmenter)
