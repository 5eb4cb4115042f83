"""Blocks tile the volume once, see their margin, and begin on the pooling grid."""

import numpy as np
import pytest

from CTSynthesisLib.synthesis.blocks import LARGEST_SIDE, blocks

CASES = [((40, 100, 120), (0, 0, 0)), ((5, 33, 17), (-7, 3, 1000003)), ((9, LARGEST_SIDE + 300, 40), (2, -5, 11))]


@pytest.mark.parametrize(("shape", "origin"), CASES)
def test_every_voxel_is_written_once(shape, origin):
    count = np.zeros(shape, int)
    for block in blocks(shape, origin, stride=16, margin=(4, 91), voxels=300_000):
        count[block.window] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(("shape", "origin"), CASES)
def test_blocks_see_their_margin_and_begin_on_the_world_grid(shape, origin):
    for block in blocks(shape, origin, stride=16, margin=(4, 91), voxels=300_000):
        for axis, margin in enumerate((4, 91, 91)):
            (a, b), (outer_a, outer_b) = block.inner[axis], block.outer[axis]
            assert outer_a <= max(a - margin, 0) and outer_b >= min(b + margin, shape[axis])
            if axis:
                assert (outer_a + origin[axis]) % 16 == 0 and (outer_b + origin[axis]) % 16 == 0


def test_reading_continues_the_border_voxels():
    array = np.arange(6 * 20 * 20).reshape(6, 20, 20)
    (block,) = blocks(array.shape, (0, 3, 5), stride=16, margin=(4, 91))
    values = block.read(array)
    np.testing.assert_array_equal(values[block.centre], array)
    np.testing.assert_array_equal(values[:, 0, block.centre[2]], array[:, 0])


def test_depth_follows_the_budget():
    few = list(blocks((128, 256, 256), (0, 0, 0), stride=16, margin=(4, 91), voxels=1_500_000))
    many = list(blocks((128, 256, 256), (0, 0, 0), stride=16, margin=(4, 91), voxels=3_000_000))
    assert len(few) > len(many) > 1
    assert max(np.prod([b - a for a, b in block.outer]) for block in few) <= 1_500_000
