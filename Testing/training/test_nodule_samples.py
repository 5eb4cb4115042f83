"""Samples of the nodule experiment: what they show, and that scans do not give the answer away."""

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.training.nodule_samples import Chest, Sampling, cut, load_chests, marked_samples, one_sample, plan
from CTSynthesisLib.training.nodule_scans import Lesion, Lungs, Scan
from CTSynthesisLib.volume import Geometry, Volume
from Testing.nodule_chest import BALLS, LEFT, chest, ras_of, write_case

HANDS = {"inject": BALLS.inject, "erase": BALLS.erase}


def a_chest(name, lesions=(), seed=0):
    places = np.random.default_rng(seed).uniform(-60, 60, (500, 3)).astype(np.float32)
    return Chest(Scan(name, name, None, tuple(lesions)), Lungs(places))


@pytest.fixture
def eleven_chests():
    lesions = [Lesion((10.0 * n, 0.0, 0.0), 8.0 + n) for n in range(3)]
    return [a_chest(f"lidc-{n}", lesions[: 1 + n % 3], n) for n in range(6)] + [a_chest(f"nlst-{n}", (), n) for n in range(5)]


@pytest.fixture
def lung_tissue():
    """Lung of -850 HU with a grain of 30 HU, 1.2 mm pixels in slices of 2 mm."""
    geometry = Geometry.from_spacing((40, 70, 70), (1.2, 1.2, 2.0), (42.0, 42.0, -40.0))
    return Volume(np.rint(np.random.default_rng(1).normal(-850, 30, geometry.shape)).astype(np.int16), geometry)


def count(samples, *made):
    return sum(sample.made in made for sample in samples)


def test_every_scan_gives_as_many_samples_with_as_without(eleven_chests):
    samples = plan(eleven_chests, 400, Sampling(), diameters=(6, 16), seed=0)
    assert len(samples) == 400 and sum(s.label for s in samples) == 200
    for name in {s.scan for s in samples}:
        labels = [s.label for s in samples if s.scan == name]
        assert abs(np.mean(labels) - 0.5) < 0.12
    assert count(samples, "kept") == count(samples, "erased") == 72  # 12 repeats of the 12 marked nodules, half of them erased
    sizes = [s.places[0].nodule.diameter_mm for s in samples if s.made == "injected"]
    assert sorted(set(sizes)) == [6, 16] and abs(np.mean(sizes) - 11) < 1.5


def test_half_of_either_sort_of_scans_as_in_figure_3a(eleven_chests):
    samples = plan(eleven_chests, 300, Sampling(halves="scans"), diameters=(8,), seed=1)
    made_of = {name: {s.made for s in samples if s.scan == name} for name in {s.scan for s in samples}}
    assert all(len(made) == 1 for made in made_of.values())
    assert sorted(next(iter(made_of[f"lidc-{n}"])) for n in range(6)) == ["erased"] * 3 + ["kept"] * 3
    assert sorted(next(iter(made_of[f"nlst-{n}"])) for n in range(5)) == ["clean"] * 2 + ["injected"] * 3


def test_whole_chests_have_as_many_nodules_as_lidcs_scans(eleven_chests):
    samples = plan(eleven_chests, 200, Sampling(whole=True, halves="scans"), diameters=(8,), seed=1)
    assert {s.centre for s in samples if s.scan == "nlst-0"} == {tuple(np.round(eleven_chests[6].lungs.centre.astype(float), 3))}
    injected = [len(s.places) for s in samples if s.made == "injected"]
    assert min(injected) == 1 and 1.5 < np.mean(injected) < 2.6  # 1186 nodules in 601 scans: two
    erased = [s for s in samples if s.made == "erased"]
    marked = {chest.scan.name: len(chest.scan.lesions) for chest in eleven_chests}
    assert len(erased) == 3 and all(len(s.places) == marked[s.scan] for s in erased)


def test_own_places_stay_away_from_marked_nodules_and_masses_count_as_neither(eleven_chests):
    mass = a_chest("mass", [Lesion((-60.0, 0.0, 0.0), 50.0)])
    assert marked_samples([mass], Sampling(), seed=0) == []
    samples = plan([mass], 60, Sampling(), diameters=(6,), seed=0)
    assert {s.made for s in samples} == {"injected", "clean"}
    away = [np.abs(np.add(s.centre, (60, 0, 0))).max() for s in samples]
    assert min(away) > 25 + 24  # the mass' radius and the sample's half side


def test_the_seed_chooses_places_and_shapes(eleven_chests):
    one, again, other = (plan(eleven_chests, 40, Sampling(), diameters=(6, 8), seed=seed) for seed in (3, 3, 4))
    assert one == again != other


def test_what_is_cut_shows_the_nodule_where_it_was_put(tmp_path):
    write_case(tmp_path / "a", balls=[(LEFT, 24.0)])
    write_case(tmp_path / "b", seed=5)
    from CTSynthesisLib.training.nodule_scans import find_scans

    chests = load_chests(find_scans(tmp_path), tmp_path / "lungs")
    sampling = Sampling(voxels=24, spacing=2.0, shift=0.0, repeats=2)
    samples = plan(chests, 16, sampling, diameters=(16,), seed=0)
    voxels, labels = cut(samples, chests, sampling, tmp_path / "samples.npy", **HANDS, made_by="test")
    assert labels.tolist() == [s.label for s in samples]
    assert voxels.shape == (16, 24, 24, 24) and voxels.dtype == np.int16
    solid = [n for n, s in enumerate(samples) if s.made == "kept" or (s.made == "injected" and s.places[0].nodule.kind == "solid")]
    empty = [n for n, s in enumerate(samples) if s.made in ("erased", "clean")]
    middle = voxels[:, 10:14, 10:14, 10:14].mean((1, 2, 3))
    assert {s.made for s in samples} == {"kept", "erased", "injected", "clean"}
    assert middle[solid].min() > -150 and middle[empty].max() < -700
    stamp = (tmp_path / "samples.npy").stat().st_mtime_ns
    cut(samples, chests, sampling, tmp_path / "samples.npy", **HANDS, made_by="test")
    assert (tmp_path / "samples.npy").stat().st_mtime_ns == stamp
    cut(samples[:4], chests, sampling, tmp_path / "samples.npy", **HANDS, made_by="test")
    assert len(np.load(tmp_path / "samples.npy")) == 4

    def refuses(volume, centre, more):
        raise UnusableInput("no room")

    told = []
    for _ in range(2):  # the second time from the file
        _, labels = cut(samples, chests, sampling, tmp_path / "b.npy", inject=refuses, erase=refuses, made_by="test", report=told.append)
        assert [int(n) for n in labels] == [-1 if s.places else s.label for s in samples]
    assert sum("is left out: no room" in line for line in told) == (labels < 0).sum()


def test_a_sample_lies_where_it_says(lung_tissue):
    """One bright voxel of the scan comes out in the middle of the sample, and is mirrored nowhere."""
    array = lung_tissue.array.copy()
    array[20:22, 30:32, 40:42] = 3000
    centre = ras_of(lung_tissue.geometry, (20.5, 30.5, 40.5))
    from CTSynthesisLib.training.nodule_samples import Sample

    sampling = Sampling(voxels=20, spacing=1.0)
    found = one_sample(Sample("a", "clean", tuple(centre + (3, 0, -2))), Volume(array, lung_tissue.geometry), sampling, **HANDS)
    k, j, i = (np.argwhere(found > 1000).mean(0) - 9.5) * sampling.spacing  # mm to the head, back and left of the middle
    assert (i, j, k) == pytest.approx((3, 0, 2), abs=0.3)


def test_scans_without_lungs_are_told(tmp_path):
    write_case(tmp_path / "a")
    write_case(tmp_path / "solid", level=20.0)
    from CTSynthesisLib.training.nodule_scans import find_scans

    told = []
    found = load_chests(find_scans(tmp_path), tmp_path / "lungs", told.append)
    assert [c.scan.name for c in found] == ["a"] and len(told) == 1 and "solid" in told[0]
    with pytest.raises(UnusableInput, match="No scan with lungs"):
        plan([], 4, Sampling(), diameters=(6,), seed=0)
    assert chest().array.shape == found[0].scan.read().array.shape
