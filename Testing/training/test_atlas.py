"""The sample segmentation is a human thorax, and the code that draws it does what it says."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib import RESOURCES
from CTSynthesisLib.anatomy import structures
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.files import read_segmentation
from CTSynthesisLib.training import atlas, atlas_average
from CTSynthesisLib.training.atlas_shapes import Canvas, ellipsoid, joined, tube

SAMPLE = RESOURCES / "Samples" / "thorax.seg.nrrd"
THORACIC = [f"vertebrae_T{n}" for n in range(1, 13)]
RIBS = [f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)]
CHAMBERS = ["heart_ventricle_left", "heart_ventricle_right", "heart_atrium_left", "heart_atrium_right"]
WHOLE = [
    *THORACIC, *RIBS, *CHAMBERS, "heart_myocardium", "lung_left", "lung_right", "aorta", "pulmonary_artery", "liver", "spleen", "trachea",
    "esophagus", "sternum", "superior_vena_cava", "inferior_vena_cava", "scapula_left",
]  # fmt: skip
WANTED = {
    *THORACIC, *RIBS, *CHAMBERS, "heart", "inferior_vena_cava", "muscle", "subcutaneous_fat", "fat", "skin", "stomach", "kidney_left",
    "kidney_right", "vertebrae_L1", "clavicula_left", "scapula_right", "costal_cartilages", "lung_vessels", "autochthon_left",
    "spinal_canal",
}  # fmt: skip
# Milliliters in adults; organs that the field of view cuts are not listed.
VOLUMES = {
    "lung_left": (900, 3200), "lung_right": (1100, 3600), "liver": (900, 2200), "spleen": (80, 350), "heart_myocardium": (90, 220),
    "heart_ventricle_left": (60, 170), "heart_ventricle_right": (60, 220), "heart_atrium_left": (30, 110), "heart_atrium_right": (35, 120),
    "aorta": (100, 300), "pulmonary_artery": (50, 140), "trachea": (15, 50), "superior_vena_cava": (10, 40), "esophagus": (15, 60),
    "sternum": (20, 90), "vertebrae_T6": (12, 40), "rib_left_5": (10, 40), "scapula_left": (40, 130),
}  # fmt: skip


class Sample:
    def __init__(self, labelmap):
        self.labelmap, self.geometry = labelmap, labelmap.geometry
        self.values = {segment.name: segment.value for segment in labelmap.segments}
        stats = sitk.LabelShapeStatisticsImageFilter()
        stats.Execute(sitk.GetImageFromArray(labelmap.array.astype(np.uint8)))
        self.counts = {name: stats.GetNumberOfPixels(value) for name, value in self.values.items()}
        self.boxes = {name: stats.GetBoundingBox(value) for name, value in self.values.items()}

    def mask(self, *names):
        return np.isin(self.labelmap.array, [self.values[name] for name in names])

    def around(self, name, margin=3):
        """Start (k, j, i) of the box around a structure, with a margin, and the labels in it."""
        x, y, z, wide, high, deep = self.boxes[name]
        start = [max(b - margin, 0) for b in (z, y, x)]
        return start, self.labelmap.array[
            tuple(slice(a, b + n + margin) for a, b, n in zip(start, (z, y, x), (deep, high, wide), strict=True))
        ]

    def places(self, name):
        """RAS positions (n, 3) of a structure's voxels."""
        start, labels = self.around(name)
        k, j, i = np.nonzero(labels == self.values[name])
        return (self.geometry.ijk_to_ras @ np.stack([i + start[2], j + start[1], k + start[0], np.ones_like(i)]))[:3].T

    def center(self, name):
        return self.places(name).mean(axis=0)

    def ml(self, name):
        return self.counts[name] * self.geometry.voxel_ml


@pytest.fixture(scope="module")
def sample():
    return Sample(read_segmentation(SAMPLE))


def test_the_file_is_small_and_its_grid_is_that_of_a_scan(sample):
    assert SAMPLE.stat().st_size < 1.5e6
    spacing = sample.geometry.spacing
    assert 0.7 < spacing[0] < 1.1 and 1.5 <= spacing[2] <= 2.5 and spacing[0] == pytest.approx(spacing[1])
    np.testing.assert_allclose(sample.geometry.directions, np.diag([-1, -1, 1]), atol=1e-9)
    assert 250 < sample.geometry.shape[0] * spacing[2] < 360


def test_every_segment_is_named_after_a_known_structure_with_its_color_and_code(sample):
    known = structures()
    for segment in sample.labelmap.segments:
        assert segment.name in known
        assert segment.color is not None
        assert (segment.code is None) == (known[segment.name].code is None)
        assert sample.counts[segment.name] > 0


def test_named_structures_are_there(sample):
    assert {*WANTED, *VOLUMES} <= set(sample.values)


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_human(sample, name):
    low, high = VOLUMES[name]
    assert low < sample.ml(name) < high


@pytest.mark.parametrize("name", WHOLE)
def test_each_is_one_piece(sample, name):
    labels = sample.around(name)[1]
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray((labels == sample.values[name]).astype(np.uint8)), True))
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes.max() > 0.985 * sizes.sum()


def test_left_is_left(sample):
    for name in sample.values:
        if "_left" in name and (other := name.replace("_left", "_right")) in sample.values:
            assert sample.center(name)[0] < sample.center(other)[0], name  # RAS: x grows to the right
    assert sample.center("liver")[0] > 20
    assert sample.center("spleen")[0] < -50 and sample.center("stomach")[0] < -20
    assert sample.ml("lung_left") < sample.ml("lung_right")


def test_the_heart_lies_as_hearts_do(sample):
    left, right, left_atrium, right_atrium = (sample.center(name) for name in CHAMBERS)
    apex = sample.places("heart_myocardium")
    apex = apex[np.argmin(apex @ [0.6, -0.5, 0.5])]  # furthest to the left, front and below
    assert apex[0] < left_atrium[0] - 30 and apex[1] > left_atrium[1] + 20 and apex[2] < left_atrium[2] - 20
    assert right[1] > left[1] + 15  # the right ventricle is in front
    assert left_atrium[1] < min(left[1], right[1], right_atrium[1]) - 10  # the left atrium is behind
    assert right_atrium[0] > max(left[0], right[0], left_atrium[0]) + 10  # the right atrium is on the right


def test_chambers_are_inside_the_heart(sample):
    left = sample.around("heart_ventricle_left")[1]
    rim = _rim(left == sample.values["heart_ventricle_left"])
    assert np.isin(left[rim], [sample.values[n] for n in ("heart_myocardium", "heart_atrium_left", "aorta", "heart")]).mean() > 0.95
    vessels = ("aorta", "pulmonary_artery", "pulmonary_vein", "superior_vena_cava", "inferior_vena_cava")
    inside = [sample.values[name] for name in (*CHAMBERS, "heart_myocardium", "heart", *vessels)]
    for name in CHAMBERS:
        labels = sample.around(name)[1]
        assert np.isin(labels[_rim(labels == sample.values[name])], inside).mean() > 0.95, name


def test_the_spine_is_behind_and_in_order(sample):
    heights = [sample.center(name)[2] for name in ("vertebrae_C7", *THORACIC, "vertebrae_L1")]
    steps = -np.diff(heights)
    assert steps.min() > 12 and steps.max() < 36
    for name in ("vertebrae_T5", "vertebrae_T9"):
        spine = sample.center(name)
        assert spine[1] < sample.center("aorta")[1] and spine[1] < sample.center("heart_atrium_left")[1] - 30
        bone, canal = sample.places(name), sample.places("spinal_canal")
        canal = canal[np.abs(canal[:, 2] - spine[2]) < 4].mean(axis=0)
        assert (bone[:, 1] < canal[1] - 12).any() and (bone[:, 1] > canal[1] + 12).any()  # a process behind the canal, a body before it


def test_ribs_fall_forward_and_follow_the_chest_wall(sample):
    lungs = sitk.GetImageFromArray(sample.mask("lung_left", "lung_right").astype(np.uint8))
    outside_lungs = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(lungs, squaredDistance=False, useImageSpacing=False))
    for side in ("left", "right"):
        for number in range(2, 10):
            name = f"rib_{side}_{number}"
            places = sample.places(name)
            back, front = (places[np.abs(places[:, 1] - end) < 6, 2].mean() for end in (np.quantile(places[:, 1], (0.02, 0.98))))
            assert back - front > 25, name
            if number < 7:
                assert np.median(outside_lungs[sample.mask(name)]) < 12, name


def test_nothing_is_outside_the_body(sample):
    body = sample.labelmap.array > 0
    pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(body.astype(np.uint8)))
    assert sitk.GetArrayViewFromImage(pieces).max() == 1
    filled = np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(s.astype(np.uint8)))) for s in body])
    assert (filled > 0).sum() == body.sum()
    air = ~body
    shore = np.zeros_like(body)
    for axis in (1, 2):
        for step in (-1, 1):
            shore |= np.roll(air, step, axis)
    shore &= body
    shore[:, (0, -1)] = shore[:, :, (0, -1)] = False
    assert (sample.labelmap.array[shore] == sample.values["skin"]).all()
    assert body.any(axis=(0, 2)).mean() > 0.8 and body.any(axis=(0, 1)).mean() > 0.85  # the body fills the grid


def test_borders_are_smooth(sample):
    """No stair-steps: a smooth closed surface changes little when its mask is smoothed."""
    for name in ("lung_left", "lung_right", "liver", "heart_ventricle_left"):
        mask = sample.around(name)[1] == sample.values[name]
        smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(mask.astype(np.float32)), 1.2)) > 0.5
        assert (smooth != mask).sum() < 0.05 * mask.sum(), name


def test_shapes_have_the_volume_of_their_formula():
    canvas = Canvas((50, 60, 70), (1, 1, 1), (-35, -30, -25))
    canvas.draw("ball", ellipsoid((0, 0, 0), (20, 12, 9)))
    assert canvas.mask("ball").sum() == pytest.approx(4 / 3 * np.pi * 20 * 12 * 9, rel=0.02)
    canvas.draw("rod", tube([(-20, 5.3, 3.4), (0, 5.3, 3.4), (20, 5.3, 3.4)], 5))
    assert canvas.mask("rod").sum() == pytest.approx(np.pi * 25 * 40 + 4 / 3 * np.pi * 125, rel=0.03)
    apart = joined(ellipsoid((-12, 0, 0), (10,) * 3), ellipsoid((12, 0, 0), (10,) * 3), blend=0)
    blended = joined(ellipsoid((-12, 0, 0), (10,) * 3), ellipsoid((12, 0, 0), (10,) * 3), blend=16)
    assert canvas.distance(apart)[25, 30, 35] > 0 > canvas.distance(blended)[25, 30, 35]


def test_a_deformed_canvas_moves_what_is_drawn():
    shift = np.zeros((3, 20, 20, 20), np.float32)
    shift[0] = -4  # every voxel looks 4 mm to the right, so the picture moves 4 mm to the left
    canvas = Canvas((20, 20, 20), (1, 1, 1), (0, 0, 0), shift)
    canvas.draw("ball", ellipsoid((8, 10, 10), (3, 3, 3)))
    assert np.argwhere(canvas.mask("ball")).mean(axis=0)[2] == pytest.approx(12, abs=0.2)


def test_drawing_is_reproducible_and_the_seed_changes_the_shape():
    average = _plain_chest()
    grid = {"shape": (25, 32, 46), "spacing": (8.5, 8.5, 12.0), "origin": (-191.0, -133.0, -160.0), "say": lambda text: None}
    one, again, other = (atlas.draw_atlas(average, seed=seed, **grid) for seed in (1, 1, 2))
    assert np.array_equal(one.array, again.array)
    assert 0.01 < (one.array != other.array).mean() < 0.2
    names = {segment.name for segment in one.segments}
    assert {"lung_left", "lung_right", "liver", "aorta", "heart_myocardium", "subcutaneous_fat"} <= names


def test_an_average_of_too_few_persons_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="at least five persons"):
        atlas_average.average_chest(tmp_path, ["one", "two"])
    with pytest.raises(UnusableInput, match="does not exist"):
        atlas_average.average_chest(tmp_path)
    assert atlas.main(["-o", str(tmp_path / "out.seg.nrrd"), "--data", str(tmp_path)]) == 2
    assert not (tmp_path / "out.seg.nrrd").exists()


def _rim(mask):
    return (sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(mask.astype(np.uint8)), (1, 1, 1))) > 0) & ~mask


def _plain_chest():
    """A stand-in for the average: an elliptic trunk with a layer of fat and two elliptic lungs."""
    size, spacing = atlas_average.SIZE, atlas_average.SPACING
    z, y, x = ((np.arange(n) - (n - 1) / 2) * spacing for n in size[::-1])
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    body = (np.hypot(x / 170, (y - 5) / 115) - 1) * 115 + 0 * z
    lung = (np.sqrt(((np.abs(x) - 65) / 50) ** 2 + ((y - 5) / 85) ** 2 + (z / 115) ** 2) - 1) * 50
    fat = ((body < 0) & (body > -14)).astype(np.float32)
    soft = ((body <= -14) & (lung > 0)).astype(np.float32)
    fields = {"body": body, "lung": lung, "fat": fat, "soft": soft, "bone": 0 * fat, "hounsfield": 0 * fat}
    return atlas_average.Average({name: np.float32(field) for name, field in fields.items()}, ("made up",))
