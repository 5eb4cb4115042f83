"""The re-segmenter's network: shapes, and what its two channels show."""

import torch

from CTSynthesisLib.networks.segmenter import Segmenter, SegmenterConfig, windows


def test_every_voxel_gets_a_score_for_each_class():
    network = Segmenter(SegmenterConfig(classes=5, width=(4, 6, 8))).eval()
    x = windows(torch.zeros(2, 8, 12, 16))
    with torch.inference_mode():
        assert network(x).shape == (2, 5, 8, 12, 16)
        assert [tuple(f.shape[1:]) for f in network.encode(x)] == [(4, 8, 12, 16), (6, 4, 6, 8), (8, 2, 3, 4)]
        assert len(network.encode(x, levels=2)) == 2


def test_the_windows_show_air_and_soft_tissue():
    wide, narrow = windows(torch.tensor([-1000.0, -800.0, 0.0, 60.0, 1000.0]).reshape(1, 5, 1, 1))[0].flatten(1)
    assert wide[0] < wide[1] < wide[2] < wide[4]
    assert narrow[0] == narrow[1]  # below fat there is nothing to see
    assert narrow[3] - narrow[2] > 4 * (wide[3] - wide[2]) - 1e-6
