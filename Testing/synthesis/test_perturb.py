"""Perturbed borders: bounded, seeded, as far as the displacement says, and no segment's topology changes."""

import numpy as np
import pytest
import SimpleITK as sitk

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.perturb import Displacement, perturb
from CTSynthesisLib.volume import Geometry, LabelMap, Segment
from Testing.phantom import thorax


def topology(mask):
    """Number of parts (26 neighbours), of cavities (6 neighbours), and Euler characteristic, which counts tunnels."""
    parts = sitk.ConnectedComponentImageFilter()
    parts.FullyConnectedOn()
    parts.Execute(sitk.GetImageFromArray(mask.astype(np.uint8)))
    holes = sitk.ConnectedComponentImageFilter()
    holes.Execute(sitk.GetImageFromArray(np.pad(~mask, 1, constant_values=True).astype(np.uint8)))
    return parts.GetObjectCount(), holes.GetObjectCount() - 1, euler(mask)


def euler(mask):
    """Vertices - edges + faces - cubes of the union of voxels as closed cubes (26-connected)."""
    padded = np.pad(mask, 1)
    total = 0
    for axes in range(8):  # cells that extend along these axes
        there = padded
        for axis in range(3):
            if not axes >> axis & 1:
                there = there.take(range(there.shape[axis] - 1), axis) | there.take(range(1, there.shape[axis]), axis)
        total += (-1) ** bin(axes).count("1") * int(there.sum())
    return total


def vessels():
    """A torus two voxels thick, a diagonal line one voxel thin, and a hollow ball, in a block of tissue."""
    k, j, i = np.mgrid[:48, :64, :64]
    array = np.full(k.shape, 1, np.uint16)
    array[np.hypot(np.hypot(j - 30, i - 30) - 20, k - 12) < 1.6] = 2
    for n in range(40):
        array[4 + n, 8 + n, 50 - n] = 3
    ball = np.sqrt((k - 32) ** 2 + (j - 20) ** 2 + (i - 44) ** 2)
    array[(ball < 12) & (ball > 9)] = 4
    segments = tuple(Segment(n, name) for n, name in enumerate(("soft_tissue", "aorta", "lung_vessels", "colon"), start=1))
    return LabelMap(array, Geometry.from_spacing(array.shape, (0.9, 0.9, 1.2)), segments)


@pytest.mark.parametrize("seed", range(2))
def test_thin_vessels_rings_and_shells_keep_their_topology(seed):
    original = vessels()
    result = perturb(original, 3.0, seed=seed)
    for segment in original.segments:
        assert topology(result.mask(segment)) == topology(original.mask(segment)), segment.name
    moved = result.mask(original.segments[2]) & original.mask(original.segments[2])
    assert moved.sum() < original.mask(original.segments[2]).sum()


def test_same_seed_same_anatomy_and_another_seed_another():
    labelmap = thorax((12, 40, 48), (4.0, 4.0, 5.0))
    first, again, other = (perturb(labelmap, 6.0, seed=seed).array for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert (perturb(labelmap, 0.0).array == labelmap.array).all()


def test_the_displacement_is_bounded_and_invertible():
    field = Displacement(Geometry.from_spacing((30, 60, 60), (1.0, 1.0, 2.0)), 3.0, seed=4)
    u = field(0, 30)
    assert 1.5 < np.sqrt((u**2).sum(0)).max() <= 3.0
    steps = [np.abs(np.diff(u, axis=axis)).max() / mm for axis, mm in ((1, 2.0), (2, 1.0), (3, 1.0))]
    assert max(steps) <= 0.41  # so x + u(x) goes to no place twice


def test_borders_go_no_farther_than_asked_and_dice_lies_where_the_displacement_says():
    k, j, i = np.mgrid[:60, :60, :60]
    ball = np.sqrt((k - 30.0) ** 2 + (j - 30) ** 2 + (i - 30) ** 2)
    labelmap = LabelMap((ball < 20).astype(np.uint16), Geometry.from_spacing(ball.shape, (1.0, 1.0, 1.0)), (Segment(1, "liver"),))
    after = perturb(labelmap, 3.0, seed=7).array > 0
    changed = ball[after != (ball < 20)]
    assert changed.min() > 20 - 3 - 1 and changed.max() < 20 + 3 + 1  # mm; one voxel is the grid's

    # volume between the surfaces: mean of |u · n| over the sphere times its area
    u = Displacement(labelmap.geometry, 3.0, seed=7)(0, 60)
    shell = np.abs(ball - 20) < 0.5
    normal = np.stack([i - 30.0, j - 30.0, k - 30.0]) / np.maximum(ball, 1)
    moved = np.abs((u * normal).sum(0)[shell]).mean() * 4 * np.pi * 20**2
    expected = 1 - moved / (2 * (4 / 3) * np.pi * 20**3)
    dice = 2 * (after & (ball < 20)).sum() / (after.sum() + (ball < 20).sum())
    assert dice == pytest.approx(expected, abs=0.01) and dice < 0.99


@pytest.mark.parametrize("by", (-1.0, 31.0))
def test_a_displacement_out_of_range_is_refused(by):
    with pytest.raises(UnusableInput, match="0 to 30 mm"):
        perturb(thorax((4, 20, 20)), by)
