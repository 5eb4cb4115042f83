"""The engine's door: geometry, determinism, blocks without seams, crops, and what the user may set."""

import dataclasses
import json

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis import mask_cgan
from CTSynthesisLib.synthesis.generate import Cancelled, generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_model(tmp_path_factory):
    """Path of a small model with random weights: what is tested here does not depend on training."""
    return save_random_model(tmp_path_factory.mktemp("models")).path


@pytest.fixture
def in_float32(monkeypatch):
    """bfloat16 rounds differently in convolutions of another shape; in float32 only a true seam can show."""
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")


@pytest.fixture(scope="module")
def a_wide_labelmap():
    """Wider than a block's margin to either side, so that there is an interior: 12 slices of 240 x 256 pixels."""
    return thorax(shape=(12, 240, 256), spacing=(1.4, 1.3, 3.0), origin=(179.2, 156.0, -400.0))


def hu_of(labelmap, model, **request):
    return generate(labelmap, Request(model=model, **request)).volume.array


def test_the_volume_lies_on_the_segmentation_s_grid(a_model, a_labelmap):
    volume = generate(a_labelmap, Request(model=a_model)).volume
    assert volume.array.dtype == np.int16
    assert volume.geometry is a_labelmap.geometry


def test_the_same_request_gives_the_same_bits(a_model, a_labelmap):
    first = hu_of(a_labelmap, a_model, seed=5)
    for _ in range(3):
        np.testing.assert_array_equal(hu_of(a_labelmap, a_model, seed=5), first)
    assert (hu_of(a_labelmap, a_model, seed=6) != first).mean() > 0.2


def test_a_cropped_segmentation_gives_the_same_interior_voxels(a_model, a_wide_labelmap, in_float32):
    """The crop begins off the pooling grid; voxels further from its border than the receptive field (92 pixels, 4 slices) agree.

    What is filled in where no segment says anything depends on the whole body, so it is left out here.
    """
    whole = hu_of(a_wide_labelmap, a_model, inside="plain")
    start, shape = (1, 21, 13), (10, 205, 230)
    window = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    cropped = LabelMap(a_wide_labelmap.array[window], a_wide_labelmap.geometry.crop(start, shape), a_wide_labelmap.segments)
    part = hu_of(cropped, a_model, inside="plain")
    interior = (slice(4, -4), slice(92, -92), slice(92, -92))
    assert part[interior].size > 0
    np.testing.assert_allclose(part[interior], whole[window][interior], atol=1)


def test_blocks_of_any_size_join_without_seams(a_model, a_wide_labelmap, in_float32, monkeypatch):
    one = hu_of(a_wide_labelmap, a_model)
    monkeypatch.setattr("CTSynthesisLib.synthesis.blocks.LARGEST_SIDE", 50)  # in-plane blocks smaller than the margin
    monkeypatch.setattr(mask_cgan.MaskCGAN.generate, "__kwdefaults__", {**mask_cgan.MaskCGAN.generate.__kwdefaults__, "voxels": 1})
    many = generate(a_wide_labelmap, Request(model=a_model)).volume.array
    np.testing.assert_allclose(many, one, atol=1)


def test_an_edit_changes_only_its_neighbourhood(a_model, a_wide_labelmap):
    before = hu_of(a_wide_labelmap, a_model)
    edited = a_wide_labelmap.array.copy()
    edited[5, 20, 20] = 4
    changed = np.argwhere(before != hu_of(LabelMap(edited, a_wide_labelmap.geometry, a_wide_labelmap.segments), a_model))
    assert len(changed)
    assert (np.abs(changed - (5, 20, 20)).max(axis=0) <= (4, 92, 92)).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_any_axis_order_gives_the_same_anatomy(a_model, a_labelmap, axes):
    """A grid stored sagittally or upside down is still drawn in axial slices."""
    flips = (True, False, True)
    turned = np.ascontiguousarray(np.flip(a_labelmap.array.transpose(axes), (0, 2)))
    labelmap = LabelMap(turned, a_labelmap.geometry.reordered(axes, flips), a_labelmap.segments)
    result = np.flip(hu_of(labelmap, a_model), (0, 2)).transpose(np.argsort(axes))
    np.testing.assert_array_equal(result, hu_of(a_labelmap, a_model))


def test_a_set_hounsfield_value_reaches_its_segment(a_model, a_labelmap):
    plain, set_ = hu_of(a_labelmap, a_model), hu_of(a_labelmap, a_model, hu={"heart": 350.0})
    heart = a_labelmap.array == 4
    assert np.median(set_[heart]) - np.median(plain[heart]) > 150


def test_a_structure_never_seen_is_drawn_and_told(a_model, a_labelmap):
    nameless = tuple(dataclasses.replace(s, name=f"Segment_{s.value}", code=None) for s in a_labelmap.segments)
    odd = LabelMap(a_labelmap.array, a_labelmap.geometry, nameless)
    result = generate(odd, Request(model=a_model, hu={"Segment_6": 800.0}))
    assert all(u.how == "not understood" for u in result.understood)
    assert len(result.assumptions) >= len(odd.segments)
    spine = odd.array == 6
    assert np.median(result.volume.array[spine]) - np.median(hu_of(odd, a_model)[spine]) > 150


def test_without_a_body_one_is_derived_and_told(a_model):
    lungs = thorax(shape=(10, 90, 100), spacing=(4.0, 4.0, 6.0))
    only = LabelMap(np.where(np.isin(lungs.array, (2, 3)), lungs.array, 0).astype(np.uint16), lungs.geometry, lungs.segments[1:3])
    derived = generate(only, Request(model=a_model))
    assert any("body outline" in sentence for sentence in derived.assumptions)
    between = derived.volume.array[5, 45, 50]  # the mediastinum, which nobody painted
    assert between > -500 and derived.volume.array[5, 0, 0] < -500
    air = generate(only, Request(model=a_model, outside="air"))
    assert not any("body outline" in sentence for sentence in air.assumptions)
    assert air.volume.array[5, 45, 50] < -500


def test_a_reference_ct_is_kept_outside_the_segments(a_model, a_labelmap):
    heart = LabelMap((a_labelmap.array == 4).astype(np.uint16), a_labelmap.geometry, (Segment(1, "heart"),))
    reference = Volume(np.full(heart.array.shape, 123, np.int16), heart.geometry)
    result = generate(heart, Request(model=a_model, outside="reference"), reference=reference).volume.array
    assert (result[heart.array == 0] == 123).all()
    assert (result[heart.array == 1] != 123).mean() > 0.5


def test_a_reference_elsewhere_is_refused(a_model, a_labelmap):
    away = Volume(np.zeros((4, 4, 4), np.int16), Geometry.from_spacing((4, 4, 4), (1, 1, 1), (9000, 0, 0)))
    with pytest.raises(UnusableInput, match="does not overlap"):
        generate(a_labelmap, Request(model=a_model, outside="reference"), reference=away)


def test_an_empty_segmentation_is_refused(a_model, a_labelmap):
    empty = LabelMap(np.zeros_like(a_labelmap.array), a_labelmap.geometry, a_labelmap.segments)
    with pytest.raises(UnusableInput, match="empty"):
        generate(empty, Request(model=a_model))


def test_cancelling_stops_between_blocks(a_model, a_labelmap):
    with pytest.raises(Cancelled):
        generate(a_labelmap, Request(model=a_model), cancelled=lambda: True)


def test_progress_runs_from_nothing_to_done(a_model, a_labelmap):
    seen = []
    generate(a_labelmap, Request(model=a_model), progress=lambda fraction, stage: seen.append(fraction))
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)


def test_provenance_says_what_made_it(a_model, a_labelmap):
    request = Request(model=a_model, seed=9, hu={"heart": 120.0})
    metadata = generate(a_labelmap, request).volume.metadata
    assert metadata["CTSynthesis.Synthetic"] == "1" and metadata["CTSynthesis.Seed"] == "9"
    assert Request.from_json(metadata["CTSynthesis.Request"]) == request
    (heart,) = (row for row in json.loads(metadata["CTSynthesis.LabelMapping"]) if row["segment"] == "heart")
    assert heart["hu"] == 120 and heart["label"] == 4
    assert len(metadata["CTSynthesis.WeightsSHA256"]) == 64


def test_two_segments_of_one_name_are_both_in_the_label_mapping(a_model, a_labelmap):
    both = [dataclasses.replace(s, name="lung", code=None) if s.name.startswith("lung") else s for s in a_labelmap.segments]
    metadata = generate(LabelMap(a_labelmap.array, a_labelmap.geometry, tuple(both)), Request(model=a_model)).volume.metadata
    mapping = json.loads(metadata["CTSynthesis.LabelMapping"])
    assert [row["segment"] for row in mapping].count("lung") == 2 and len({row["label"] for row in mapping}) == len(mapping) == 6


@pytest.mark.parametrize(("body", "tops"), [("painted", (65_520, 2_000_000_000)), ("derived", (65_535,))])
def test_the_label_of_a_segment_changes_no_voxel(a_model, a_labelmap, body, tops):
    """Whether 4 or two thousand million: where the anatomy is filled in, and where the body has to be derived."""
    kept = [s for s in a_labelmap.segments if not s.name.startswith("lung") and (body == "painted" or s.name != "body")]
    array = np.where(np.isin(a_labelmap.array, [s.value for s in kept]), a_labelmap.array, 1 if body == "painted" else 0).astype(np.int32)
    array[a_labelmap.array == 0] = 0
    found = []
    for top in (4, *tops):
        labels = np.where(array == 4, top, array)
        segments = [dataclasses.replace(s, value=top) if s.value == 4 else s for s in kept]
        result = generate(LabelMap.from_labels(labels, a_labelmap.geometry, segments), Request(model=a_model))
        found.append(result.volume.array)
        assert {row["label"] for row in json.loads(result.volume.metadata["CTSynthesis.LabelMapping"])} == {s.value for s in segments}
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
