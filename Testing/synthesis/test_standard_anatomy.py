"""The standard anatomy laid over a segmentation: found again where it was moved to, and drawn only where it is wanted."""

import numpy as np
import pytest

from CTSynthesisLib import RESOURCES
from CTSynthesisLib.anatomy import ancestors, understand
from CTSynthesisLib.files import read_segmentation
from CTSynthesisLib.synthesis.outline import derive_outline
from CTSynthesisLib.synthesis.standard_anatomy import draw, flood, place, standard_anatomy
from CTSynthesisLib.volume import Geometry, LabelMap, Segment

BODY = 200


@pytest.fixture(scope="module")
def a_body():
    """The bundled sample of another size: 12 % wider, 10 % less deep, 8 % taller, moved, on a coarse grid."""
    sample = read_segmentation(RESOURCES / "Samples" / "thorax.seg.nrrd")
    array = np.roll(sample.array[::2, ::3, ::3], (4, -3), axis=(1, 2))
    geometry = Geometry.from_spacing(array.shape, np.array([0.95 * 3 * 1.12, 0.95 * 3 * 0.9, 2 * 2 * 1.08]))
    return LabelMap(np.ascontiguousarray(array), geometry, sample.segments)


def families(structure):
    """The names of a structure and of all it lies within."""
    return {structure.name, *(one.name for one in ancestors(structure))}


def told(body, *names):
    """``body`` with everything but some structures (and what lies within them) turned into an unspecified body."""
    kept = [u.segment for u in understand(body.segments) if families(u.structure) & set(names)]
    array = np.where(np.isin(body.array, [s.value for s in kept]), body.array, np.where(body.array > 0, BODY, 0)).astype(np.uint16)
    return LabelMap(array, body.geometry, (*kept, Segment(BODY, "body")))


def drawn_over(labelmap, seed=0, **kwargs):
    placed = place(labelmap.array, understand(labelmap.segments), labelmap.geometry, seed=seed, **{"outline": True, **kwargs})
    return placed, draw(placed, labelmap.array == BODY, labelmap.geometry)


def dice_of(drawn, body, name):
    """Dice of a structure, with all that lies within it."""
    values = [u.segment.value for u in standard_anatomy().understood if name in families(u.structure)]
    own, real = np.isin(drawn, values), np.isin(body.array, values)
    return 2 * (own & real).sum() / (own.sum() + real.sum())


def test_organs_lie_where_lungs_and_outline_say(a_body):
    placed, drawn = drawn_over(told(a_body, "lungs"))
    assert placed.overlap > 0.9
    found = {name: dice_of(drawn, a_body, name) for name in ("heart", "liver", "vertebrae", "fat")}
    assert min(found["heart"], found["liver"], found["fat"]) > 0.7 and found["vertebrae"] > 0.5, found


def test_an_outline_alone_places_the_spine(a_body):
    _, drawn = drawn_over(told(a_body))
    assert dice_of(drawn, a_body, "vertebrae") > 0.4


def test_every_voxel_within_its_reach_is_drawn_and_no_other(a_body):
    labelmap = told(a_body, "lungs")
    _, drawn = drawn_over(labelmap)
    wanted = labelmap.array == BODY
    assert (drawn[wanted] > 0).mean() > 0.99
    assert not drawn[~wanted].any()


def test_what_was_painted_is_not_drawn_again(a_body):
    """Where the painted heart is smaller than the anatomy's, what lies around it goes on."""
    labelmap = told(a_body, "lungs", "heart")
    heart = np.isin(labelmap.array, [u.segment.value for u in understand(labelmap.segments) if "heart" in u.structure.name])
    array = np.where(heart & (np.indices(heart.shape)[0] % 2 == 0), BODY, labelmap.array).astype(np.uint16)
    _, drawn = drawn_over(LabelMap(array, labelmap.geometry, labelmap.segments))
    names = {u.segment.value: families(u.structure) for u in standard_anatomy().understood}
    assert not any({"heart", "lungs"} & names[value] for value in np.unique(drawn) if value)


def test_no_vertebra_is_drawn_between_painted_ones(a_body):
    labelmap = told(a_body, "lungs", "vertebrae_T4", "vertebrae_T7", "vertebrae_T10")
    _, drawn = drawn_over(labelmap)
    assert dice_of(drawn, a_body, "vertebrae") == 0 and dice_of(drawn, a_body, "ribs") > 0.3


def test_a_lone_heart_gets_a_body(a_body):
    heart = told(a_body, "heart")
    alone = LabelMap(np.where(heart.array == BODY, 0, heart.array).astype(np.uint16), heart.geometry, heart.segments[:-1])
    body, sentence = derive_outline(alone, understand(alone.segments), seed=0)
    real = a_body.array > 0
    assert 2 * (body & real).sum() / (body.sum() + real.sum()) > 0.8
    assert "standard anatomy" in sentence


def test_the_seed_bends_it_a_little(a_body):
    labelmap = told(a_body, "lungs")
    first, again, other = (drawn_over(labelmap, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert 0.01 < (first != other).mean() < 0.3


def test_nothing_to_go_by_places_nothing(a_body):
    labelmap = told(a_body)
    assert place(labelmap.array, understand(labelmap.segments), labelmap.geometry, seed=0, outline=False) is None


def test_it_can_be_stopped(a_body):
    def stop():
        raise InterruptedError

    labelmap = told(a_body, "liver")  # not fitted before
    with pytest.raises(InterruptedError):
        place(labelmap.array, understand(labelmap.segments), labelmap.geometry, seed=0, outline=True, check=stop)


def test_flood_takes_the_nearest_and_stays_inside():
    labels = np.array([[[1, 0, 0, 0, 2, 0]]], np.uint8)
    where = np.array([[[1, 1, 1, 1, 1, 0]]], bool)
    filled = flood(labels, where)
    np.testing.assert_array_equal(filled[0, 0, [0, 1, 3, 4, 5]], [1, 1, 2, 2, 0])
    assert filled[0, 0, 2] in (1, 2)
    np.testing.assert_array_equal(flood(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1, 3), bool)), np.zeros((1, 1, 3)))
