"""The picture: orientation, aspect, windows, marks."""

import itertools

import numpy as np
import pytest
from PIL import Image

from CTSynthesisLib.evaluation.picture import BADGE, WINDOWS, anatomical, three_planes
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax

RIGHT, FRONT, HEAD = 1, 2, 3  # labels of three marker blocks


def marked(ijk_to_ras_directions, spacing=(2.0, 2.0, 2.0)):
    """A cube of 24 voxels with blocks at the patient's right, front and head, on a grid with these axis directions (columns: i, j, k)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(ijk_to_ras_directions, float) * spacing
    geometry = Geometry((24, 24, 24), matrix)
    k, j, i = np.indices(geometry.shape)
    ras = np.einsum("rc,c...->r...", np.array(ijk_to_ras_directions, float), np.stack([i, j, k]) - 11.5)
    array = np.zeros(geometry.shape, np.uint8)
    inner = np.abs(ras) < 9
    array[(ras[0] > 5) & inner.all(0)] = RIGHT
    array[(ras[1] > 5) & inner.all(0) & (array == 0)] = FRONT
    array[(ras[2] > 5) & inner.all(0) & (array == 0)] = HEAD
    segments = tuple(Segment(n, str(n), color=color) for n, color in ((RIGHT, (1, 0, 0)), (FRONT, (0, 1, 0)), (HEAD, (0, 0, 1))))
    return LabelMap(array, geometry, segments)


def all_axes():
    """All 48 ways to lay three voxel axes along R, A and S."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            yield matrix


@pytest.mark.parametrize("directions", list(all_axes()))
def test_every_orientation_is_turned_to_head_front_and_right_first(directions):
    labelmap = marked(directions)
    turned, _ = anatomical(labelmap.array, labelmap.geometry)
    centres = {value: np.argwhere(turned == value).mean(axis=0) for value in (RIGHT, FRONT, HEAD)}
    assert centres[HEAD][0] < 8, "the head is at the top"
    assert centres[FRONT][1] < 8, "the front is at the top of an axial picture and on the left of a sagittal one"
    assert centres[RIGHT][2] < 8, "the patient's right is on the left of the picture"


def test_an_oblique_volume_is_shown_along_its_nearest_axes():
    angle = np.deg2rad(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    labelmap = thorax()
    oblique = Geometry(labelmap.geometry.shape, np.block([[tilt, np.zeros((3, 1))], [np.zeros((1, 3)), 1]]) @ labelmap.geometry.ijk_to_ras)
    straight, spacing = anatomical(labelmap.array, labelmap.geometry)
    tilted, tilted_spacing = anatomical(labelmap.array, oblique)
    assert np.array_equal(straight, tilted)
    np.testing.assert_allclose(spacing, tilted_spacing)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    labelmap = thorax(spacing=(4.5, 4.5, 9.0))
    path = tmp_path_factory.mktemp("picture") / "preview.png"
    three_planes(Volume(hounsfield(labelmap), labelmap.geometry), labelmap, path, title="model, seed 0")
    return labelmap, Image.open(path)


def test_the_picture_is_marked_as_synthetic(picture):
    _, image = picture
    assert "SYNTHETIC" in image.text["Description"]
    assert image.size[0] == 1600
    badge = (np.asarray(image)[:80] == BADGE).all(axis=-1)
    assert badge.sum() > 2000, "a badge in the headline"


def test_millimetres_are_as_long_across_as_up(tmp_path):
    """A ball on an anisotropic grid is round in each plane."""
    geometry = Geometry.from_spacing((20, 60, 90), (3.0, 4.0, 10.0))
    z, y, x = (np.arange(n).reshape([-1 if axis == a else 1 for a in range(3)]) - (n - 1) / 2 for axis, n in enumerate(geometry.shape))
    ball = (3 * x) ** 2 + (4 * y) ** 2 + (10 * z) ** 2 < 80**2
    labelmap = LabelMap(ball.astype(np.uint8), geometry, (Segment(1, "heart", color=(1, 0, 0)),))
    three_planes(Volume(np.where(ball, 40, -1000).astype(np.int16), geometry), labelmap, tmp_path / "ball.png")
    pixels = np.asarray(Image.open(tmp_path / "ball.png")).astype(int)
    red = (pixels[..., 0] > 120) & (pixels[..., 1] < 40)
    columns = np.flatnonzero(red[100:].any(axis=0))
    balls = np.split(columns, np.flatnonzero(np.diff(columns) > 40) + 1)
    assert len(balls) == 3
    for found in balls:
        rows = np.flatnonzero(red[100:, found].any(axis=1))
        assert np.ptp(rows) / np.ptp(found) == pytest.approx(1, abs=0.06)


def test_windows_show_what_they_should(picture):
    """In the soft-tissue window lungs are black and bone is white; in the lung window the lungs are gray."""
    _, image = picture
    pixels = np.asarray(image.convert("L")).astype(int)
    row = (image.size[1] - 84) // 3
    soft, lung = (pixels[84 + n * row + 40 : 84 + (n + 1) * row, : 1600 // 3] for n in (1, 2))
    assert set(WINDOWS) == {"Soft tissue", "Lung"}
    assert (soft > 250).sum() > 200
    gray_of_lung = round((-850 - (-500 - 700)) * 255 / 1400)
    assert (np.abs(lung - gray_of_lung) <= 2).sum() > 5000
    assert (np.abs(soft - gray_of_lung) <= 2).sum() < 500


def test_a_volume_without_a_segmentation_has_two_rows(tmp_path):
    labelmap = thorax()
    with_it, without = tmp_path / "with.png", tmp_path / "without.png"
    volume = Volume(hounsfield(labelmap), labelmap.geometry)
    three_planes(volume, labelmap, with_it)
    three_planes(volume, None, without)
    assert Image.open(without).size[1] < 0.75 * Image.open(with_it).size[1]


def test_an_unwritable_picture_leaves_nothing(tmp_path):
    labelmap = thorax()
    with pytest.raises(ValueError, match="cannot be written"):
        three_planes(Volume(hounsfield(labelmap), labelmap.geometry), labelmap, tmp_path / "missing" / "preview.png")
    assert not list(tmp_path.iterdir())
