"""The figures of nodules, each on an image that was made to have it or not."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation import nodule_quality as quality
from CTSynthesisLib.synthesis.nodule_shape import Nodule, render
from Testing.nodule_chest import chest_and_lungs, in_the_lung, untrained

SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def lung():
    return np.random.default_rng(0).normal(-850, 30, (40, 40, 40)).round().astype(np.int16)


class Everywhere:
    healthy = lung = np.ones((40, 40, 40), bool)


@pytest.mark.parametrize(("kind", "diameter"), [("solid", 9.0), ("part-solid", 14.0), ("ground-glass", 12.0)])
def test_diameters_are_read_from_the_image(lung, kind, diameter):
    rendered = render(Nodule(diameter, kind, "smooth", 1), lung.shape, SPACING, (20, 20, 20))
    image = np.where(rendered.occupancy > 0, lung + rendered.occupancy * (rendered.hu - lung), lung).round().astype(np.int16)
    assert quality.diameter_of(lung, image, SPACING, Everywhere, kind) == pytest.approx(diameter, abs=max(1.0, 0.1 * diameter))
    half = np.where(np.indices(lung.shape)[0] < 20, image, lung)
    assert quality.diameter_of(lung, half, SPACING, Everywhere, kind) < 0.88 * diameter
    assert abs(quality.hu_off(image, rendered, rendered.mask)) < 15
    assert quality.hu_off(image + np.int16(70), rendered, rendered.mask) > 55


def test_a_step_at_the_border_shows_as_a_seam(lung):
    changed = np.zeros(lung.shape, bool)
    changed[15:25, 15:25, 15:25] = True
    assert quality.seam(lung, changed, Everywhere.lung, SPACING) == pytest.approx(1, abs=0.1)
    assert quality.seam(lung + 120 * changed, changed, Everywhere.lung, SPACING) > 2
    slices = lung + np.random.default_rng(1).normal(0, 200, (40, 1, 1)).astype(np.int16)  # steps across slices are larger everywhere
    assert quality.seam(slices, changed, Everywhere.lung, SPACING) == pytest.approx(1, abs=0.12)


def test_spread_and_difference_tell_a_blob_from_lung(lung):
    mask = np.zeros(lung.shape, bool)
    mask[15:25, 15:25, 15:25] = True
    other = np.random.default_rng(1).normal(-850, 30, lung.shape).astype(np.int16)
    for image, spread, difference in ((np.where(mask, other, lung), 1.0, 1.0), (np.where(mask, -850, lung), 0.0, 0.7)):
        assert quality.spread_ratio(image, image != lung, mask, Everywhere.healthy, SPACING) == pytest.approx(spread, abs=0.1)
        assert quality.difference_ratio(lung, image, mask, Everywhere.lung, 0) == pytest.approx(difference, abs=0.1)


def test_nodules_of_a_scan_are_measured(tmp_path, monkeypatch):
    for name in ("nodule_injector", "nodule_eraser"):
        untrained(tmp_path, name)
    monkeypatch.setattr("CTSynthesisLib.modelstore.MODELS", tmp_path)
    volume, labels = chest_and_lungs()
    rows = quality.measure(volume, labels, "chest", diameters=(12.0,), edges=("smooth",))
    told = quality.summary(rows)
    assert [row.kind for row in rows] == ["solid", "part-solid", "ground-glass"] and in_the_lung(labels)
    assert told["nodules"] == 3 and told["hu_within_50"] > 0.5 and 0.6 < told["spread_median"] < 1.4
