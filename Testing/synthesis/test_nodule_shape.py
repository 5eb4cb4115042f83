"""The parametric nodule: its size on any grid, its kinds and edges, and the numbers for random placement."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.nodule_shape import EDGES, GLASS_HU, KINDS, SOLID_HU, Nodule, random_count, random_diameters, render


def diameter(occupancy, spacing):
    return (6 * occupancy.sum() * np.prod(spacing) / np.pi) ** (1 / 3)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("spacing", "shape"), [((1.0, 1.0, 1.0), (30, 30, 30)), ((0.7, 0.9, 2.5), (14, 36, 44))])
def test_has_the_volume_of_its_diameter_on_any_grid(edge, spacing, shape):
    for kind in KINDS:
        rendered = render(Nodule(11.0, kind, edge, 5), shape, spacing, [n / 2 + 0.3 for n in shape])
        assert diameter(rendered.occupancy, spacing) == pytest.approx(11.0, abs=0.35)
        assert rendered.occupancy.min() >= 0 and rendered.occupancy.max() <= 1 and (rendered.mask == (rendered.occupancy >= 0.5)).all()


def test_the_same_seed_gives_the_same_shape_and_others_others():
    one, again, other = (render(Nodule(9.0, "solid", "lobulated", seed), (20, 20, 20), (1, 1, 1), (10, 10, 10)) for seed in (1, 1, 2))
    assert (one.occupancy == again.occupancy).all() and np.abs(one.occupancy - other.occupancy).max() > 0.5


def test_kinds_have_their_hounsfield_values():
    means = {}
    for kind in KINDS:
        r = render(Nodule(12.0, kind, "smooth", 0), (30, 30, 30), (1, 1, 1), (15, 15, 15))
        means[kind] = (r.hu * r.occupancy).sum() / r.occupancy.sum()
        assert means[kind] == pytest.approx(Nodule(12.0, kind).mean_hu, abs=30)
    assert means["solid"] == pytest.approx(SOLID_HU) and means["ground-glass"] == pytest.approx(GLASS_HU)
    assert r.hu[15, 15, 15] == pytest.approx(GLASS_HU)


def test_edges_differ_in_how_much_surface_they_have():
    surface = {}
    for edge in EDGES:
        o = render(Nodule(16.0, "solid", edge, 3), (40, 40, 40), (1, 1, 1), (20, 20, 20)).occupancy
        surface[edge] = sum(np.abs(np.diff(o, axis=axis)).sum() for axis in range(3))
    assert surface["smooth"] < 0.985 * surface["lobulated"] and surface["lobulated"] < 0.9 * surface["spiculated"]


@pytest.mark.parametrize("wrong", [{"diameter_mm": 2.0}, {"diameter_mm": 31.0}, {"kind": "cystic"}, {"edge": "fuzzy"}])
def test_refuses_what_it_cannot_make(wrong):
    with pytest.raises(UnusableInput, match="3 to 30 mm|choose one of"):
        Nodule(**wrong)


def test_random_sizes_and_counts_follow_lidc():
    sizes = random_diameters(4000, 0)
    assert np.median(sizes) == pytest.approx(6.4, abs=0.3) and sizes.mean() == pytest.approx(8.3, abs=0.4)
    assert sizes.min() >= 3 and sizes.max() <= 30
    counts = [random_count(seed) for seed in range(1500)]
    assert min(counts) == 1 and np.mean(counts) == pytest.approx(1186 / 601, abs=0.15)
    assert np.mean([random_count(seed, at_least=0) == 0 for seed in range(1500)]) == pytest.approx(1 - 601 / 888, abs=0.05)
