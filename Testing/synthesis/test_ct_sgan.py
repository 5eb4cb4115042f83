"""Whole volumes from nothing: the model of anatomy, and what a volume depends on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis import cohort, ct_sgan
from CTSynthesisLib.synthesis.anatomy_frame import CELLS, TISSUES, drawn_shares
from CTSynthesisLib.synthesis.anatomy_model import chest_geometry, draw_anatomy, draw_field, draw_nodules, laid_out
from CTSynthesisLib.synthesis.standard_anatomy import standard_anatomy
from Testing.synthesis.models import save_random_anatomy, save_random_model

SMALL = (64, 64, 64)


@pytest.fixture(scope="module")
def some_models(tmp_path_factory):
    """Paths of a model of anatomy and of a renderer, both with random weights."""
    folder = tmp_path_factory.mktemp("models")
    return save_random_anatomy(folder), save_random_model(folder)


@pytest.fixture(scope="module")
def a_request(some_models):
    anatomy, renderer = some_models
    return ct_sgan.VolumeRequest(preset=anatomy.path, renderer=renderer.path, seed=3, size=64)


@pytest.fixture(scope="module")
def a_chest(some_models):
    return draw_anatomy(some_models[0], 5, chest_geometry(SMALL, ct_sgan.EXTENT_MM), nodules=3)


def mask(labelmap, *names):
    return np.isin(labelmap.array, [s.value for s in labelmap.segments if s.name in names])


def test_no_displacement_gives_the_standard_anatomy():
    geometry = chest_geometry((36, 40, 56), (288.0, 320.0, 448.0))
    drawn = laid_out(torch.zeros(3, 36, 20, 28), geometry)
    anatomy = standard_anatomy()
    value = next(u.segment.value for u in anatomy.understood if u.structure.name == "liver")
    ml = (drawn == value).sum() * geometry.voxel_ml
    assert ml == pytest.approx((anatomy.labels == value).sum() * np.prod(anatomy.spacing) / 1000, rel=0.03)


def test_a_shift_of_the_field_shifts_the_anatomy_the_other_way():
    geometry = chest_geometry((36, 40, 56), (288.0, 320.0, 448.0))
    field = torch.zeros(3, 36, 20, 28)
    field[2] = 16.0  # mm: each place looks two voxels further to the left of the patient
    assert np.array_equal(laid_out(field, geometry)[:, :, :-2], laid_out(0 * field, geometry)[:, :, 2:])


def test_shares_of_tissues_sum_to_one_and_pass_gradients_to_the_field():
    field = torch.zeros(1, 3, 36, 20, 28, requires_grad=True)
    shares = drawn_shares(field, 30, 4)
    assert shares.shape == (1, len(TISSUES), 4, 2 * CELLS[1], 2 * CELLS[2])
    assert torch.allclose(shares.sum(1), torch.ones(1, 4, 2 * CELLS[1], 2 * CELLS[2]), atol=1e-4)
    shares[:, TISSUES.index("lungs")].sum().backward()
    assert field.grad[:, :, 15:17].any() and not field.grad[:, :, :13].any()


def test_a_chest_holds_what_a_chest_holds_where_it_belongs(a_chest):
    names = {segment.name for segment in a_chest.segments}
    assert {"heart_ventricle_left", "aorta", "trachea", "rib_left_5", "rib_right_9", "clavicula_left"} <= names
    places = ("lung_left", "lung_right", "vertebrae_T6", "sternum", "liver")
    centre = {name: np.argwhere(mask(a_chest, name)).mean(0) for name in places}
    assert centre["lung_right"][2] < centre["vertebrae_T6"][2] < centre["lung_left"][2]
    assert centre["sternum"][1] < centre["vertebrae_T6"][1] and centre["liver"][0] < centre["lung_right"][0]
    assert 2000 < mask(a_chest, "lung_left", "lung_right", "lung_vessels").sum() * a_chest.geometry.voxel_ml < 9000


def test_persons_differ_and_a_person_stays_the_same_at_another_resolution(some_models):
    anatomy, _ = some_models
    assert torch.equal(draw_field(anatomy, 4), draw_field(anatomy, 4)) and not torch.equal(draw_field(anatomy, 4), draw_field(anatomy, 5))
    coarse, fine = (draw_anatomy(anatomy, 4, chest_geometry((n,) * 3, ct_sgan.EXTENT_MM)) for n in (48, 96))
    for name in ("liver", "lung_left"):
        small, large = (mask(one, name).sum() * one.geometry.voxel_ml for one in (coarse, fine))
        assert small == pytest.approx(large, rel=0.05)


def test_nodules_are_segments_inside_the_lungs(a_chest):
    found = [s for s in a_chest.segments if s.name.startswith("nodule")]
    assert [s.name for s in found] == ["nodule", "nodule 2", "nodule 3"]
    lungs = np.zeros((60, 60, 60), bool)
    lungs[10:50, 10:50, 10:50] = True
    geometry = chest_geometry((60, 60, 60), (60.0, 60.0, 60.0))
    masks = draw_nodules(lungs, geometry, 1, 4)
    assert len(masks) == 4 and not sum(m.astype(int) for m in masks).max() > 1 and not any((m & ~lungs).any() for m in masks)
    for m in masks:
        assert 3 < (6 * m.sum() / np.pi) ** (1 / 3) < 31


def test_a_volume_shows_its_label_map(a_request):
    drawn = ct_sgan.draw(a_request, 0)
    hu = drawn.volume.array
    assert hu.shape == SMALL and hu.dtype == np.int16 and drawn.volume.geometry.agrees_with(drawn.labelmap.geometry)
    lung, liver, spine = (np.median(hu[mask(drawn.labelmap, name)]) for name in ("lung_left", "liver", "vertebrae_T8"))
    assert lung < -700 and liver > lung + 500 and spine > lung + 500
    beyond = np.ones(SMALL, bool)
    beyond[ct_sgan.body_box(drawn.labelmap.array, ct_sgan.MARGIN)] = False
    assert beyond.any() and (hu[beyond] == -1000).all()
    facts = drawn.volume.metadata
    assert facts["CTSynthesis.Synthetic"] == "1" and int(facts["CTSynthesis.VolumeSeed"]) == ct_sgan.seed_of(3, 0)


def test_only_the_body_is_rendered_and_the_crop_changes_none_of_it(a_request, monkeypatch):
    drawn = ct_sgan.draw(a_request, 1)
    monkeypatch.setattr(ct_sgan, "body_box", lambda array, margin: tuple(slice(0, n) for n in array.shape))
    whole = ct_sgan.draw(a_request, 1)
    body = drawn.labelmap.array > 0
    assert np.abs(drawn.volume.array[body].astype(int) - whole.volume.array[body]).max() <= 1


def test_scanners_differ_by_seed(a_request):
    scans = [ct_sgan.scan_of(a_request, seed) for seed in range(20)]
    assert len({scan.noise for scan in scans}) == 20 and {scan.phase for scan in scans} == {"plain", "portal", "arterial"}


def test_a_cohort_is_resumed_without_making_anything_twice(a_request, tmp_path):
    made = cohort.Cohort(a_request, tmp_path / "out", with_segmentation=True)
    assert cohort.make(made, 1) == (1, 0)
    first = (tmp_path / "out" / "volume-0000.nrrd").read_bytes()
    (tmp_path / "out" / "volume-0001.nrrd").write_bytes(b"half")  # of a run that was broken off: it has no record
    assert cohort.make(made, 2, resume=True) == (1, 1)
    assert (tmp_path / "out" / "volume-0000.nrrd").read_bytes() == first
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["volumes"]
    assert [one["number"] for one in listed] == [0, 1] and listed[1]["files"] == ["volume-0001.nrrd", "volume-0001.seg.nrrd"]
    assert listed[0]["seed"] == ct_sgan.seed_of(3, 0) and listed[0]["provenance"]["CTSynthesis.WeightsSHA256"]
    assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(UnusableInput, match="--resume"):
        cohort.make(made, 2)
    with pytest.raises(UnusableInput, match="another seed;"):
        cohort.make(replace(made, request=replace(a_request, seed=4)), 2, resume=True)


def test_a_folder_with_other_things_is_left_alone(a_request, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UnusableInput, match="not an empty folder"):
        cohort.make(cohort.Cohort(a_request, tmp_path), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    (({"preset": "default"}, "needs a segmentation"), ({"preset": "gan3d"}, "ctsynthesis train gan3d"), ({"size": 20}, "64 to 1024"),
     ({"nodules": 99}, "0 to 50"), ({"preset": "nowhere"}, "no model 'nowhere'")),
)  # fmt: skip
def test_what_cannot_be_made_is_said(wrong, sentence):
    with pytest.raises(UnusableInput, match=sentence):
        ct_sgan.check(ct_sgan.VolumeRequest(**wrong))
