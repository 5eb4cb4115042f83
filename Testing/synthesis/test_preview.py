"""The live preview: a slice rendered after an edit is the full run's, and nothing that an edit cannot reach is computed."""

import dataclasses

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.preview import Preview
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("models")).path


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """bfloat16 rounds differently in convolutions of another shape; in float32 only a true difference can show."""
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")


@pytest.fixture(scope="module")
def a_wide_labelmap():
    """Wider than the receptive field, so that an edit leaves most of a slice as it was: 12 slices of 240 x 256 pixels."""
    return thorax(shape=(12, 240, 256), spacing=(1.4, 1.3, 3.0), origin=(179.2, 156.0, -400.0))


def turned(labelmap, axes, flips):
    """The same anatomy, stored along other axes."""
    array = labelmap.array.transpose(axes)
    array = np.flip(array, [n for n, flip in enumerate(flips) if flip])
    return LabelMap(np.ascontiguousarray(array), labelmap.geometry.reordered(axes, flips), labelmap.segments)


def painted(labelmap, start, block):
    array = labelmap.array.astype(np.uint16)
    array[tuple(slice(s, s + n) for s, n in zip(start, block.shape, strict=True))] = block
    return LabelMap(array, labelmap.geometry, labelmap.segments)


def shown(preview, volume):
    """``volume`` (k, j, i) with all that the preview has to say about its slices."""
    volume = volume.copy()
    for index in range(preview.count):
        if (rendered := preview.render(index)) is not None:
            start, hu = rendered
            assert hu.shape[preview.axis] == 1
            volume[tuple(slice(s, s + n) for s, n in zip(start, hu.shape, strict=True))] = hu
    return volume


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True)), ((1, 2, 0), (False, True, False))]
)
def test_rendered_slices_are_those_of_the_full_run(a_model, a_labelmap, axes, flips):
    labelmap = turned(a_labelmap, axes, flips)
    request = Request(model=a_model, seed=3, inside="plain")
    preview = Preview(labelmap, request)
    result = shown(preview, np.full(labelmap.array.shape, -9999, np.int16))
    np.testing.assert_allclose(result, generate(labelmap, request).volume.array, atol=1)

    block = np.full((3, 4, 5), 4, np.uint16)
    block[1, 2] = 0
    preview.edit((2, 1, 2), block)
    np.testing.assert_allclose(shown(preview, result), generate(painted(labelmap, (2, 1, 2), block), request).volume.array, atol=1)


def test_an_edit_stales_its_neighbourhood_only(a_model, a_wide_labelmap):
    request = Request(model=a_model, inside="plain")
    before = generate(a_wide_labelmap, request).volume.array
    preview = Preview(a_wide_labelmap, request, shown=True)
    assert preview.waiting(0) is None and preview.render(6) is None
    block = np.full((2, 8, 6), 4, np.uint16)
    preview.edit((6, 30, 20), block)
    assert preview.waiting(0) == 2 and preview.waiting(11) == 11  # four slices to either side
    start, hu = preview.render(6)
    assert start == (6, 0, 0) and hu.shape[1] <= 30 + 8 + 94 and hu.shape[2] <= 20 + 6 + 94
    edited = painted(a_wide_labelmap, (6, 30, 20), block)
    preview.edit((6, 30, 20), block)  # the same once more changes nothing
    assert preview.render(6) is None
    before[6:7, : hu.shape[1], : hu.shape[2]] = hu
    np.testing.assert_allclose(shown(preview, before), generate(edited, request).volume.array, atol=1)


def test_many_edits_in_a_row_leave_no_trace_of_their_order(a_model, a_wide_labelmap):
    """Features are patched, not computed anew: after many patches they must be those of the label map as it now is."""
    request = Request(model=a_model, inside="plain")
    preview = Preview(a_wide_labelmap, request)
    edited, rng = a_wide_labelmap, np.random.default_rng(0)
    image = np.zeros((1, *a_wide_labelmap.array.shape[1:]), np.int16)
    for _ in range(6):
        start = (int(rng.integers(3, 7)), int(rng.integers(0, 220)), int(rng.integers(0, 230)))
        block = np.full((2, 11, 17), int(rng.integers(0, 6)), np.uint16)
        edited = painted(edited, start, block)
        preview.edit(start, block)
        if (rendered := preview.render(5)) is not None:
            (_, j, i), hu = rendered
            image[:, j : j + hu.shape[1], i : i + hu.shape[2]] = hu
    np.testing.assert_allclose(image, generate(edited, request).volume.array[5:6], atol=1)


def test_what_was_filled_in_is_frozen(a_model, a_labelmap):
    """A heart alone gets a body and an anatomy; an edit does not move them, and taking it back restores every voxel."""
    heart = LabelMap((a_labelmap.array == 4).astype(np.uint8), a_labelmap.geometry, (Segment(1, "heart"),))
    request = Request(model=a_model)
    full = generate(heart, request).volume.array
    preview = Preview(heart, request)
    assert preview.assumptions
    result = shown(preview, np.zeros_like(full))
    np.testing.assert_allclose(result, full, atol=1)
    block = heart.array[4:5, 5:8, 5:9]
    preview.edit((4, 5, 5), 1 - block)
    assert np.abs(shown(preview, result) - full.astype(int)).max() > 20
    preview.edit((4, 5, 5), block)
    np.testing.assert_allclose(shown(preview, result), full, atol=1)


def test_a_segment_that_was_empty_can_be_painted(a_model, a_labelmap):
    segments = (*a_labelmap.segments, Segment(40, "liver", hu=400.0))
    labelmap = dataclasses.replace(a_labelmap, segments=segments)
    request = Request(model=a_model, inside="plain")
    preview = Preview(labelmap, request)
    result = shown(preview, np.zeros(labelmap.array.shape, np.int16))
    block = np.full((2, 5, 5), 40, np.uint16)
    preview.edit((3, 10, 10), block)
    np.testing.assert_allclose(shown(preview, result), generate(painted(labelmap, (3, 10, 10), block), request).volume.array, atol=1)


def test_the_reference_surrounds_the_segments(a_model, a_labelmap):
    organs = dataclasses.replace(a_labelmap, array=np.where(a_labelmap.array == 1, 0, a_labelmap.array))
    reference = Volume(np.full(organs.array.shape, -321, np.int16), organs.geometry)
    request = Request(model=a_model, outside="reference", inside="plain")
    preview = Preview(organs, request, reference=reference)
    result = shown(preview, np.zeros(organs.array.shape, np.int16))
    np.testing.assert_allclose(result, generate(organs, request, reference=reference).volume.array, atol=1)
    block = np.full((1, 3, 3), 4, np.uint16)
    preview.edit((3, 2, 2), block)
    expected = generate(painted(organs, (3, 2, 2), block), request, reference=reference).volume.array
    result = shown(preview, result)
    assert (result[expected == -321] == -321).all() and result[3, 3, 3] != -321


def test_unseen_slices_are_shown_flat(a_model, a_labelmap):
    preview = Preview(a_labelmap, Request(model=a_model, inside="plain", hu={"heart": 321.0}))
    flat = preview.estimate()
    assert flat.shape == a_labelmap.array.shape
    assert (flat[a_labelmap.array == 4] == 321).all() and (flat[a_labelmap.array == 0] == -1000).all()


def test_models_that_see_whole_slices_have_no_preview(a_model, a_labelmap, monkeypatch):
    from CTSynthesisLib.synthesis import preview

    card = dataclasses.replace(preview.load_card(a_model), receptive_field={})
    monkeypatch.setattr(preview, "load_card", lambda name: card)
    with pytest.raises(UnusableInput, match="sees whole slices"):
        Preview(a_labelmap, Request(model=a_model))
