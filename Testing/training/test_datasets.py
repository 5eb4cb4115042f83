"""Slices and masks from tiny folders that the tests write, in MM-WHS's format and in ours."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from CTSynthesisLib.errors import Assumption, UnusableInput
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.training.datasets import MM_WHS, WHOLE_HEART, SlicePairs, structures_of
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume

VALUES = (500, 600, 420, 550, 205, 820, 850)  # LV RV LA RA Myo Ao PA, as the challenge published them


def write_case(folder, number, image, labels, spacing=(0.8, 0.8, 1.6), direction=None):
    """One case under MM-WHS's file names, written by SimpleITK."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("image", image.astype(np.int16)), ("label", labels.astype(np.uint16))):
        stack = sitk.GetImageFromArray(array)
        stack.SetSpacing(spacing)
        if direction is not None:
            stack.SetDirection(direction)
        sitk.WriteImage(stack, str(folder / f"ct_train_{number}_{kind}.nii.gz"))


@pytest.fixture
def a_heart():
    """Image and labels (10, 32, 32): slice n > 2 shows structure n - 3 in its upper left quarter, whose HU is 100 (n - 3)."""
    image, labels = np.full((10, 32, 32), -2000), np.zeros((10, 32, 32), int)
    for n, value in enumerate(VALUES):
        image[n + 3, :16, :16] = 100 * n
        labels[n + 3, :16, :16] = value
    return image, labels


@pytest.fixture
def an_mmwhs_folder(tmp_path, a_heart):
    write_case(tmp_path / "ct_train", 1001, *a_heart)
    return tmp_path


def test_mmwhs_values_are_those_of_the_challenge():
    assert {name: value for name, (value, _) in MM_WHS.items()} == dict(
        zip(("LV", "RV", "LA", "RA", "Myo", "Ao", "PA"), VALUES, strict=True)
    )
    assert structures_of("whole_heart") == WHOLE_HEART == tuple(name for _, name in MM_WHS.values())
    assert structures_of("Myo") == structures_of("heart_myocardium") == ("heart_myocardium",)


def test_whole_heart_has_one_mask_for_each_structure(an_mmwhs_folder):
    pairs = SlicePairs(an_mmwhs_folder, WHOLE_HEART, image_size=32)
    masks, images = pairs.pairs(range(len(pairs)))
    assert masks.shape == (7, 7, 32, 32) and images.shape == (7, 1, 32, 32)
    for n in range(7):
        assert masks[n, n, :16, :16].all() and masks[n].sum() == 256  # slice n shows structure n and nothing else
        assert images[n, 0, 4, 4] == pytest.approx((100 * n + 1000) / 2000)  # the fixed map of -1000..1000 HU
        assert images[n, 0, 30, 30] == 0  # clipped
    assert pairs.slices_of == {"ct_train_1001": 7}  # the three slices without a label are left out


def test_a_model_for_one_structure_sees_its_slices_only(an_mmwhs_folder):
    pairs = SlicePairs(an_mmwhs_folder, structures_of("Ao"), image_size=32)
    masks, images = pairs.pairs([0])
    assert len(pairs) == 1 and masks.shape == (1, 1, 32, 32) and images[0, 0, 4, 4] == pytest.approx(0.75)


def test_slices_are_resized_and_seen_from_the_feet_however_they_were_stored(tmp_path, a_heart):
    write_case(tmp_path / "straight", 1001, *a_heart)
    # the same scan stored from head to foot, rows from back to front, columns first
    turned = [array[::-1, ::-1].transpose(0, 2, 1) for array in a_heart]
    write_case(tmp_path / "turned", 1001, *turned, direction=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    straight, turned = (SlicePairs(tmp_path / name, WHOLE_HEART, image_size=64) for name in ("straight", "turned"))
    assert straight.labels.shape == (7, 64, 64)
    assert torch.equal(straight.labels, turned.labels) and torch.equal(straight.hounsfield, turned.hounsfield)


def test_slices_keep_their_proportions_in_millimetres(tmp_path, a_heart):
    image, labels = (array[:, :16] for array in a_heart)  # 16 rows of 1.6 mm by 32 columns of 0.8 mm: a square
    write_case(tmp_path, 1001, image, labels, spacing=(0.8, 1.6, 1.6))
    pairs = SlicePairs(tmp_path, WHOLE_HEART, image_size=32)
    assert (pairs.labels[0] > 0).sum() == 32 * 16  # the left half, all the way down
    write_case(tmp_path, 1001, image, labels, spacing=(0.8, 0.8, 1.6))
    pairs = SlicePairs(tmp_path, WHOLE_HEART, image_size=32)
    assert (pairs.labels[0, 8:24, :16] > 0).all() and (pairs.labels[0] > 0).sum() == 16 * 16  # centred, margins above and below


def test_batches_go_through_all_slices_in_an_order_that_the_seed_decides(an_mmwhs_folder):
    pairs = SlicePairs(an_mmwhs_folder, WHOLE_HEART, image_size=32, seed=1)

    def shown(pairs, n):
        return [int(mask.flatten(1).any(1).nonzero()) for mask in pairs.batch(n, 2)[0]]

    order = [structure for n in range(7) for structure in shown(pairs, n)]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7)) and order[:7] != order[7:]
    again = SlicePairs(an_mmwhs_folder, WHOLE_HEART, image_size=32, seed=1)
    assert [structure for n in (6, 0) for structure in shown(again, n)] == order[12:] + order[:2]  # a function of n alone
    other = SlicePairs(an_mmwhs_folder, WHOLE_HEART, image_size=32, seed=2)
    assert [structure for n in range(7) for structure in shown(other, n)] != order


def test_values_unknown_to_mmwhs_are_told(tmp_path, a_heart):
    image, labels = a_heart
    labels[9, 20:, 20:] = 422
    write_case(tmp_path, 1001, image, labels)
    with pytest.warns(Assumption, match="422"):
        pairs = SlicePairs(tmp_path, WHOLE_HEART, image_size=32)
    assert (pairs.labels[-1] > 0).sum() == 256


def test_the_misprint_of_mmwhs_is_the_left_atrium(tmp_path, a_heart, capfd):
    """On the command line too it is told, though libraries' warnings are not."""
    from CTSynthesisLib.cli import main

    image, labels = a_heart
    labels[labels == 420] = 421
    write_case(tmp_path, 1001, image, labels)
    with pytest.warns(Assumption, match="421.*left atrium"):
        pairs = SlicePairs(tmp_path, structures_of("LA"), image_size=32)
    assert len(pairs) == 1 and (pairs.labels > 0).sum() == 256
    options = ["--data", str(tmp_path), "-o", str(tmp_path / "out"), "--structure", "liver"]  # which MM-WHS lacks: nothing is trained
    assert main(["train", "habijan2022", *options]) == 2
    note, refusal = capfd.readouterr().err.splitlines()
    assert note.startswith("note: ") and "421" in note and "liver" in refusal


def test_an_image_without_labels_is_named(an_mmwhs_folder):
    (an_mmwhs_folder / "ct_train" / "ct_train_1001_label.nii.gz").unlink()
    with pytest.raises(UnusableInput, match="ct_train_1001_image.nii.gz has no labels beside it"):
        SlicePairs(an_mmwhs_folder, WHOLE_HEART)


def test_image_and_labels_must_share_a_grid(an_mmwhs_folder, a_heart):
    write_case(an_mmwhs_folder / "other", 1001, *a_heart, spacing=(0.9, 0.8, 1.6))
    (an_mmwhs_folder / "other" / "ct_train_1001_label.nii.gz").replace(an_mmwhs_folder / "ct_train" / "ct_train_1001_label.nii.gz")
    with pytest.raises(UnusableInput, match="same grid"):
        SlicePairs(an_mmwhs_folder, WHOLE_HEART, image_size=32)


def test_a_folder_with_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="holds no training data"):
        SlicePairs(tmp_path, WHOLE_HEART)


@pytest.fixture
def a_folder_of_cases(tmp_path):
    """One case in our layout whose segments carry names, not MM-WHS's values; and one case without a segmentation."""
    geometry = Geometry.from_spacing((4, 32, 32), (1.0, 1.0, 2.0))
    labels = np.zeros((4, 32, 32), np.uint16)
    labels[1, :8, :8], labels[2, :8, :8], labels[3, :8, :8] = 1, 2, 3
    names = {1: "heart_ventricle_left", 2: "liver", 3: "heart_atrium_right"}
    for case in ("a", "b"):
        (tmp_path / case).mkdir()
        write_volume(Volume(np.full((4, 32, 32), 50, np.int16), geometry), tmp_path / case / "ct.nrrd")
    segments = tuple(Segment(value, name) for value, name in names.items())
    write_segmentation(LabelMap(labels, geometry, segments), tmp_path / "a" / "segmentation.nrrd")
    (tmp_path / "a" / "labels.json").write_text(json.dumps({str(value): name for value, name in names.items()}))
    return tmp_path


def test_reads_any_folder_of_cases_by_the_names_of_their_segments(a_folder_of_cases):
    pairs = SlicePairs(a_folder_of_cases, WHOLE_HEART, image_size=32)
    assert pairs.slices_of == {"a": 2}
    assert [int(labels.max()) for labels in pairs.labels] == [1, 4]  # left ventricle, right atrium; the liver is no part of the heart


def test_a_structure_is_made_of_its_parts(a_folder_of_cases):
    pairs = SlicePairs(a_folder_of_cases, structures_of("heart"), image_size=32)
    assert len(pairs) == 2 and int(pairs.labels.max()) == 1


def test_other_organs_can_be_trained_on(a_folder_of_cases):
    assert len(SlicePairs(a_folder_of_cases, structures_of("liver"), image_size=32)) == 1
    with pytest.raises(UnusableInput, match="spleen"):
        SlicePairs(a_folder_of_cases, structures_of("spleen"), image_size=32)
