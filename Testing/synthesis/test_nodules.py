"""Nodules put into and taken out of a CT: size, HU, what stays untouched, odd grids, and refusals. Tiny untrained networks."""

import json

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis import nodules
from CTSynthesisLib.synthesis.nodule_places import grown, lungs_of, random_places
from CTSynthesisLib.synthesis.nodule_shape import Nodule
from CTSynthesisLib.synthesis.nodules import erase, inject
from CTSynthesisLib.volume import Geometry, LabelMap, Volume
from Testing.nodule_chest import chest_and_lungs, in_the_lung, untrained


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: untrained(folder, f"nodule_{name}") for name in ("injector", "eraser")}


@pytest.fixture(scope="module")
def a_chest():
    return chest_and_lungs()


@pytest.fixture(scope="module")
def injected(a_chest, models):
    volume, labels = a_chest
    placed = [(Nodule(14.0, "solid", "smooth", 1), in_the_lung(labels))]
    return inject(volume, placed, labels, seed=3, injector=models["injector"])


def test_an_injected_nodule_is_there_and_a_segment(a_chest, injected):
    volume, _ = a_chest
    mask = injected.segmentation.array == 1
    assert pytest.approx((6000 * mask.sum() * volume.geometry.voxel_ml / np.pi) ** (1 / 3), abs=1.4) == 14.0
    core = np.argwhere(mask).mean(0).round().astype(int)
    assert injected.volume.array[tuple(core)] == pytest.approx(15, abs=90)
    assert volume.array[tuple(core)] < -700
    (segment,) = injected.segmentation.segments
    assert segment.name == "nodule 1" and segment.code[1] == "27925004"
    (said,) = json.loads(injected.volume.metadata["CTSynthesis.Nodules"])
    assert said["injected"][0]["diameter_mm"] == 14.0 and said["seed"] == 3 and injected.volume.metadata["CTSynthesis.Synthetic"] == "1"


def test_everything_else_stays_bit_for_bit(a_chest, injected):
    volume, labels = a_chest
    changed = np.argwhere(injected.volume.array != volume.array)
    away = np.linalg.norm((changed - in_the_lung(labels)) * volume.geometry.spacing[::-1], axis=1)
    assert len(changed) > 0 and away.max() < 16


def test_seeds_decide(a_chest, models, injected):
    volume, labels = a_chest
    again, other = (inject(volume, [(Nodule(14.0, "solid", "smooth", 1), in_the_lung(labels))], labels, seed=seed,
                           injector=models["injector"]).volume.array for seed in (3, 4))  # fmt: skip
    assert (again == injected.volume.array).all() and (other != again).any()


def test_ground_glass_lets_a_vessel_show_and_has_its_mean(a_chest, models):
    volume, labels = a_chest
    at = in_the_lung(labels)
    array = volume.array.copy()
    k, j, i = (int(a) for a in at)
    array[k, j, i - 8 : i + 9] = 40
    made = inject(Volume(array, volume.geometry), [(Nodule(16.0, "ground-glass", "smooth", 1), at)], labels, injector=models["injector"])
    mask = made.segmentation.array > 0
    mask[k - 1 : k + 2, j - 1 : j + 2] = False
    assert made.volume.array[k, j, i - 2 : i + 3].min() > -150
    assert made.volume.array[mask].mean() == pytest.approx(-680, abs=50)


def test_the_chest_wall_is_left_as_it_is(a_chest, models):
    volume, labels = a_chest
    k, j, _ = (int(a) for a in in_the_lung(labels))
    edge = np.flatnonzero(labels[k, j])[-1]
    made = inject(volume, [(Nodule(15.0, "solid", "lobulated", 1), (k, j, edge - 1))], labels, injector=models["injector"])
    assert not (made.segmentation.array[labels == 0] > 0).any()
    assert any("left out" in note for note in made.notes)
    wall = (labels == 0) & (made.volume.array != volume.array)
    assert np.abs(made.volume.array - volume.array)[wall].max(initial=0) < 60


def test_an_erased_nodule_leaves_lung_like_that_around_it(a_chest, injected, models):
    volume, labels = a_chest
    mask = injected.segmentation.array == 1
    cleared = erase(injected.volume, [mask], labels, eraser=models["eraser"])
    inside, around = cleared.volume.array[mask].astype(float), volume.array[labels > 0].astype(float)
    assert inside.mean() == pytest.approx(around.mean(), abs=20)
    assert 0.75 < inside.std() / around.std() < 1.3
    assert [list(entry)[0] for entry in json.loads(cleared.volume.metadata["CTSynthesis.Nodules"])] == ["injected", "erased"]
    changed = np.argwhere(cleared.volume.array != injected.volume.array)
    assert np.linalg.norm((changed - in_the_lung(labels)) * volume.geometry.spacing[::-1], axis=1).max() < 20


@pytest.mark.parametrize(("kind", "kept"), [("ground-glass", True), ("solid", False)])
def test_an_eraser_keeps_what_shows_through_ground_glass_and_nothing_of_what_is_solid(a_chest, models, monkeypatch, kind, kept):
    """An eraser that would keep everything that is visible."""
    volume, labels = a_chest
    at = in_the_lung(labels)
    array = volume.array.copy()
    k, j, i = (int(a) for a in at)
    array[k, j, i - 8 : i + 9] = 40
    made = inject(Volume(array, volume.geometry), [(Nodule(12.0, kind, "smooth", 1), at)], labels, injector=models["injector"])
    answer = nodules.Model.__call__
    monkeypatch.setattr(nodules.Model, "__call__", lambda model, x: (*answer(model, x)[:2], np.ones(x.shape[1:], np.float32)))
    cleared = erase(made.volume, [made.segmentation.array > 0], labels, eraser=models["eraser"]).volume.array
    assert (cleared[k, j, i - 1 : i + 2].mean() > -300) == kept


def test_a_click_finds_the_nodule(a_chest, injected):
    volume, labels = a_chest
    found = grown(injected.volume.array, labels, volume.geometry, in_the_lung(labels), None)
    mask = injected.segmentation.array == 1
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.75
    with pytest.raises(UnusableInput, match="stands out from the lung"):
        grown(volume.array, labels, volume.geometry, in_the_lung(labels), None)


def test_other_axes_show_the_same_nodule(a_chest, injected, models):
    volume, labels = a_chest
    axes = (2, 0, 1)  # sagittal slices, as a scanner never makes them
    geometry = volume.geometry.reordered(axes, (False, True, False))

    def turned(array):
        return np.ascontiguousarray(np.flip(array.transpose(axes), 1))

    at = np.array(in_the_lung(labels))[list(axes)]
    at[1] = geometry.shape[1] - 1 - at[1]
    placed = [(Nodule(14.0, "solid", "smooth", 1), tuple(at))]
    made = inject(Volume(turned(volume.array), geometry), placed, turned(labels), seed=3, injector=models["injector"])
    assert (made.segmentation.array == turned(injected.segmentation.array)).mean() > 0.999
    assert np.abs(made.volume.array.astype(int) - turned(injected.volume.array)).mean() < 0.5


def test_random_places_lie_in_lung_and_apart(a_chest):
    volume, labels = a_chest
    nodules = [Nodule(6.0, seed=n) for n in range(5)]
    places = random_places(labels, volume.geometry.spacing, nodules, 1)
    assert all(labels[place] for place in places) and places == random_places(labels, volume.geometry.spacing, nodules, 1)
    steps = volume.geometry.spacing[::-1]
    assert min(np.linalg.norm((np.subtract(a, b)) * steps) for n, a in enumerate(places) for b in places[:n]) > 6
    with pytest.raises(UnusableInput, match="no room"):
        random_places(labels, volume.geometry.spacing, [Nodule(30.0)] * 40, 1)


def test_places_that_cannot_be_used_are_refused(a_chest, models):
    volume, labels = a_chest
    middle = tuple(n // 2 for n in labels.shape)
    with pytest.raises(UnusableInput, match=r"mm outside the lung.*--anywhere"):
        inject(volume, [(Nodule(), middle)], labels, injector=models["injector"])
    assert inject(volume, [(Nodule(), middle)], None, injector=models["injector"]).segmentation.array.any()
    with pytest.raises(UnusableInput, match="outside the volume"):
        inject(volume, [(Nodule(), (0, 500, 3))], None, injector=models["injector"])
    narrow = Volume(volume.array[:4, 30:36], Geometry.from_spacing((4, 6, labels.shape[2]), (2, 2, 3)))
    with pytest.raises(UnusableInput, match="12 mm .* too small"):
        inject(narrow, [(Nodule(20.0), (2, 3, 70))], None, injector=models["injector"])
    with pytest.raises(UnusableInput, match="wide; nodules up to 60 mm"):
        erase(volume, [labels > 0], labels, eraser=models["eraser"])


def test_thick_slices_are_told(a_chest, models):
    volume, labels = a_chest
    made = inject(volume, [(Nodule(4.0), in_the_lung(labels))], labels, injector=models["injector"])
    assert any("3 mm apart" in note for note in made.notes)


def test_a_few_slices_show_a_section_and_say_so(a_chest, models):
    volume, labels = a_chest
    k, j, i = map(int, in_the_lung(labels))
    thin = Volume(volume.array[k - 1 : k + 2], Geometry.from_spacing((3, *labels.shape[1:]), (2.6, 2.6, 3)))
    made = inject(thin, [(Nodule(12.0), (1, j, i))], labels[k - 1 : k + 2], injector=models["injector"])
    assert made.segmentation.array.any((1, 2)).all() and any("9 mm deep" in note for note in made.notes)


def test_a_ct_without_lungs_is_refused():
    array = np.full((20, 60, 60), -1000, np.int16)
    array[:, 10:50, 10:50] = 40
    with pytest.raises(UnusableInput, match=r"No lungs were found in this CT \(0 ml\)"):
        lungs_of(Volume(array, Geometry.from_spacing(array.shape, (5, 5, 5))))


def test_segments_are_a_label_map(injected):
    assert isinstance(injected.segmentation, LabelMap) and injected.segmentation.geometry.agrees_with(injected.volume.geometry)


def test_padding_beside_a_nodule_counts_as_air_and_stays(a_chest, models):
    """The field of view ends within a nodule's reach: what is drawn is the same, and the padding is kept where nothing was drawn."""
    volume, labels = a_chest
    at = in_the_lung(labels)
    beyond = np.zeros(volume.array.shape, bool)
    beyond[:, : int(at[1]) - 2] = True
    drawn = []
    for value in (-1000, -3024):
        scan = Volume(np.where(beyond, value, volume.array).astype(np.int16), volume.geometry)
        made = inject(scan, [(Nodule(14.0, "solid", "smooth", 1), at)], labels, seed=3, injector=models["injector"]).volume.array
        drawn.append((made, made != scan.array))
    (air, changed), (padded, changed_too) = drawn
    assert changed.any() and (changed == changed_too).all()
    np.testing.assert_array_equal(air[changed], padded[changed])
    assert (padded[beyond & ~changed] == -3024).all()
