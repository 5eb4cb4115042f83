"""What the network is told."""

import numpy as np
import torch

from CTSynthesisLib.synthesis.condition import AIR, BLOOD, BONE, CHANNELS, CLASSES, SOFT, Condition, Scan
from CTSynthesisLib.synthesis.hu_map import HUMap


def a_condition():
    values = np.zeros((2, 4, 6), np.uint8)
    values[:, :, 2:4] = 1
    values[:, :, 4:] = 2
    tables = np.array([AIR, BLOOD, SOFT]), np.array([-1000, 300, 55], np.float32), np.array([True, True, False])
    return Condition(values, *tables, Scan((0.9, 0.9, 5.0), noise=20.0, slice_correlation=0.5))


def test_planes_say_class_value_and_what_is_unknown():
    condition = a_condition()
    planes, expected = condition.planes(condition.values, HUMap())
    assert planes.shape == (2, CHANNELS, 4, 6)
    assert planes[:, :CLASSES].sum(1).eq(1).all()
    assert planes[0, BLOOD, 0].tolist() == [0, 0, 1, 1, 0, 0] and planes[0, BONE].sum() == 0
    blurred = torch.tensor([-1000.0, -675, -25, 238.75, 116.25, 55])  # by (1, 2, 1) / 4: partial volume at the borders
    torch.testing.assert_close(HUMap().to_hu(expected)[0, 0], blurred, atol=0.05, rtol=0)
    torch.testing.assert_close(planes[0, CLASSES, 0, 2], HUMap().to_network(torch.tensor(300.0)))
    assert planes[0, CLASSES + 2, 0].tolist() == [1, 1, 1, 1, 0, 0]  # the last value is only the table's
    assert planes[0, CLASSES + 3, 0].tolist() == [0, 1, 0, 1, 0, 0]  # borders
    assert planes[0, -8:, 0, 0].tolist() == [
        *(0.0, 1.0),  # spacing as trained, slices twice as thick
        *(1.0, 1.0, 0.0, 0.0, 0.5, 1.0),  # noise, sharpness, slice correlation, each with whether it is known
    ]


def test_the_hu_map_is_invertible_over_all_of_ct():
    hu = torch.arange(-1024.0, 3072.0)
    torch.testing.assert_close(HUMap().to_hu(HUMap().to_network(hu)), hu, atol=0.01, rtol=0)
