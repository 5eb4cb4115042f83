"""What is filled in where the segmentation says nothing: the standard anatomy, tissues beyond its ends, vessels in lungs."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.anatomy import structure, understand
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.condition import BLOOD, BODY, BONE, FAT, LUNG, SOFT
from CTSynthesisLib.synthesis.filling import hounsfield_of
from CTSynthesisLib.synthesis.generate import condition_of, generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_chest():
    """Body, lungs, heart, aorta and vertebrae on a grid of 3 × 3 × 4 mm."""
    return thorax(shape=(30, 96, 108), spacing=(3.0, 3.0, 4.0))


def conditioned(labelmap, **request):
    return condition_of(labelmap.array, understand(labelmap.segments), labelmap.geometry, Request(**request))


def only(labelmap, *names):
    """``labelmap`` with all but some segments turned into its first, the body."""
    kept = [s.value for s in labelmap.segments if s.name in ("body", *names)]
    array = np.where(np.isin(labelmap.array, [0, *kept]), labelmap.array, labelmap.segments[0].value)
    return LabelMap(array, labelmap.geometry, tuple(s for s in labelmap.segments if s.value in kept))


def test_every_unspecified_voxel_gets_a_tissue_and_no_other_changes(a_chest):
    condition, sentences = conditioned(a_chest)
    tissue = condition.tissue[condition.values]
    unspecified = a_chest.array == a_chest.segments[0].value
    assert a_chest.segments[0].name == "body" and not (tissue == BODY).any()
    assert {FAT, SOFT} <= set(np.unique(tissue[unspecified]))
    vessels = (condition.values == len(condition.tissue) - 1) & ~unspecified
    same = ~unspecified & ~vessels
    np.testing.assert_array_equal(condition.values[same], a_chest.array[same])
    assert any("of the body" in s for s in sentences) and any("essels" in s for s in sentences)


def test_fat_lies_under_the_skin_and_bone_at_the_back(a_chest):
    """Of an outline alone: fat is commoner in the outermost 6 mm than deep inside; more bone lies behind the middle than before it."""
    condition, _ = conditioned(only(a_chest))
    tissue = condition.tissue[condition.values]
    depth = np.stack([_depth(one > 0) for one in a_chest.array])
    outer, deep = (depth > 0) & (depth < 2), depth > 12  # pixels of 3 mm
    assert (tissue[outer] == FAT).mean() > 0.5 > 2 * (tissue[deep] == FAT).mean()
    rows = np.nonzero(tissue == BONE)[1]
    assert len(rows) > 500 and rows.mean() > np.nonzero(a_chest.array)[1].mean()


def test_beyond_the_standard_anatomy_tissues_are_guessed():
    """A narrow body of 60 cm: the anatomy of 30 cm cannot reach all of it."""
    tall = thorax(shape=(60, 24, 27), spacing=(6.0, 6.0, 10.0))
    condition, sentences = conditioned(only(tall))
    assert any("standard anatomy, fitted" in s for s in sentences) and any("guessed" in s for s in sentences)
    tissue = condition.tissue[condition.values]
    assert not (tissue == BODY).any()
    for end in (tissue[:6], tissue[-6:]):
        assert {FAT, SOFT} <= set(np.unique(end))


def test_a_grid_of_which_nothing_is_known_is_guessed():
    """A box of an unknown segment has neither an outline nor an organ to go by."""
    box = thorax(shape=(8, 40, 40), spacing=(4.0, 4.0, 4.0))
    inside = LabelMap(np.full(box.array.shape, box.segments[0].value, np.uint16), box.geometry, box.segments[:1])
    condition, sentences = conditioned(inside)
    assert not (condition.tissue[condition.values] == BODY).any()
    assert any("guessed" in s for s in sentences) and not any("fitted" in s for s in sentences)


def _depth(mask):
    """Distance to the outside in pixels."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False))


def test_the_seed_chooses_what_is_filled_in(a_chest):
    first, again, other = (conditioned(a_chest, seed=seed)[0].values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert 0.005 < (first != other).mean() < 0.5


def test_lungs_without_vessels_get_some_that_branch(a_chest):
    condition, _ = conditioned(only(a_chest, "lung_left", "lung_right"))
    lungs = np.isin(a_chest.array, [s.value for s in a_chest.segments if s.name.startswith("lung_")])
    vessels = (condition.tissue[condition.values] == BLOOD) & lungs
    assert 0.005 < vessels.sum() / lungs.sum() < 0.12
    assert (condition.tissue[condition.values][lungs & ~vessels] == LUNG).all()


def test_plain_leaves_everything_as_painted(a_chest):
    condition, sentences = conditioned(a_chest, inside="plain")
    np.testing.assert_array_equal(condition.values, a_chest.array)
    assert sentences == []


def test_the_volume_shows_it_and_says_so(a_labelmap, tmp_path):
    model = save_random_model(tmp_path).path
    result = generate(only(a_labelmap), Request(model=model))
    assert any("standard anatomy" in s for s in result.assumptions)
    assert "filled in" in result.volume.metadata["CTSynthesis.Assumptions"]
    plain = generate(only(a_labelmap), Request(model=model, inside="plain"))
    inside = a_labelmap.array > 0
    assert (result.volume.array[inside] < -40).mean() > (plain.volume.array[inside] < -40).mean() + 0.05


def test_filled_organs_follow_what_a_scan_showed():
    """Bone takes the value; organs move with muscle; a vein gets less of the contrast in the blood than the aorta."""
    names = ("vertebrae_T5", "liver", "muscle", "aorta", "inferior_vena_cava", "trachea")
    wanted = [structure(name) for name in names]
    levels = dict(zip(names, hounsfield_of(wanted, Request(hu={"bones": 300.0, "Soft tissue": 65.0, "blood": 180.0})), strict=True))
    assert levels["vertebrae_T5"] == (300.0, True) and levels["muscle"] == (65.0, True)
    assert levels["liver"][0] - levels["muscle"][0] == pytest.approx(structure("liver").mean("portal") - structure("muscle").mean("portal"))
    assert levels["liver"][0] > levels["muscle"][0]
    assert structure("inferior_vena_cava").mean() < levels["inferior_vena_cava"][0] <= levels["aorta"][0] * 1.1
    assert levels["trachea"] == (structure("trachea").mean(), False)


def test_hounsfield_values_of_filled_tissues_can_be_set(a_chest):
    outline = only(a_chest)
    fat, _ = conditioned(outline, hu={"fat": -90.0})
    assert -90.0 in fat.hu[fat.tissue == FAT]
    with pytest.raises(UnusableInput, match="neither"):
        generate(outline, Request(hu={"liver": 60.0}))
