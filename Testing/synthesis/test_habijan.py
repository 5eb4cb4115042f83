"""From label maps to volumes with a habijan2022 generator, here an untrained one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.modelstore import save_model
from CTSynthesisLib.networks.mask_unet import MaskUNet, MaskUNetConfig
from CTSynthesisLib.synthesis import habijan
from CTSynthesisLib.synthesis.generate import Cancelled, generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Geometry, LabelMap, Segment


@pytest.fixture
def a_model(tmp_path):
    """Path of an untrained model for heart and aorta."""
    torch.manual_seed(0)
    config = dict(mask_channels=2, filters=2, most_filters=4)
    network = MaskUNet(MaskUNetConfig(**config))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, 0, 1)  # so that masks show in the untrained images
    weights = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    details = {"generator": config, "structures": ["heart", "aorta"], "image_size": 128}
    texts = dict(name="tiny", title="Tiny", kind="habijan2022", version="0", description="")
    return save_model(tmp_path, weights, network=details, hu_map={"range": [-1000.0, 1000.0]}, **texts).path


def draw(labelmap, model, **more):
    return generate(labelmap, Request(model=model, outside="air", device="cpu"), **more).volume.array


def labelmap(shape, spacing, name="heart"):
    labels = np.zeros(shape, np.uint16)
    labels[:, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = 4
    return LabelMap(labels, Geometry.from_spacing(shape, spacing), (Segment(4, name),))


@pytest.mark.parametrize(("shape", "spacing"), [((40, 96), (0.8, 0.8)), ((64, 64), (1.5, 0.5)), ((300, 200), (0.7, 0.7))])
def test_framing_is_undone(shape, spacing):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    smooth = (100 * np.sin(rows / shape[0] * 3) + 100 * np.cos(columns / shape[1] * 3))[None]
    framed = habijan.frame(smooth, spacing, 256)
    assert framed.shape == (1, 256, 256)
    assert np.abs(habijan.unframe(framed, shape, spacing).numpy() - smooth).max() < 3


def test_unit_range_is_fixed_and_invertible():
    hounsfield = torch.tensor([-1000.0, -500.0, 0.0, 40.0, 1000.0])
    units = habijan.to_unit(hounsfield, (-1000, 1000))
    assert units.tolist() == pytest.approx([0, 0.25, 0.5, 0.52, 1])
    assert torch.allclose(habijan.to_hounsfield(units, (-1000, 1000)), hounsfield, atol=1e-3)
    assert habijan.to_unit(torch.tensor([-3000.0, 2500.0]), (-1000, 1000)).tolist() == [0, 1]


def test_draws_on_the_grid_of_the_label_map_however_it_is_stored(a_model):
    straight = labelmap((3, 48, 64), (1.0, 1.0, 2.0))
    volume = draw(straight, a_model)
    assert volume.dtype == np.int16 and volume.shape == (3, 48, 64) and volume.min() >= -1000 and volume.max() <= 1000
    # the same segmentation as a sagittal stack: k to the left, j to the feet, i to the back
    turned_matrix = straight.geometry.ijk_to_ras @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1]])
    turned = LabelMap(straight.array.transpose(2, 0, 1)[:, ::-1], Geometry((64, 3, 48), turned_matrix), straight.segments)
    assert np.array_equal(draw(turned, a_model), volume.transpose(2, 0, 1)[:, ::-1])


def test_the_network_sees_masks_in_their_proportions_in_millimetres(a_model):
    square, flat = labelmap((1, 64, 64), (1.0, 1.0, 2.0)), labelmap((1, 32, 64), (1.0, 2.0, 2.0))
    assert np.abs(draw(square, a_model)[:, ::2].astype(float) - draw(flat, a_model)).mean() < 40  # the same slice, with half its rows


def test_each_structure_has_its_own_channel_and_parts_count_for_the_whole(a_model):
    heart, chamber, aorta = (
        draw(labelmap((1, 48, 48), (1.0, 1.0, 2.0), name), a_model) for name in ("heart", "heart_ventricle_left", "aorta")
    )
    assert np.array_equal(heart, chamber) and not np.array_equal(heart, aorta)


def test_can_be_cancelled_between_slices(a_model):
    told = []
    with pytest.raises(Cancelled):
        draw(labelmap((4, 32, 32), (1.0, 1.0, 2.0)), a_model, progress=lambda *now: told.append(now), cancelled=lambda: len(told) > 5)
    assert [stage for _, stage in told][-2:] == ["generating", "generating"]


def test_a_segmentation_without_its_structures_is_refused(a_model):
    with pytest.raises(UnusableInput, match="heart, aorta only"):
        draw(labelmap((1, 48, 48), (1.0, 1.0, 2.0), "liver"), a_model)


def test_a_damaged_model_is_named(a_model):
    weights = Path(a_model).read_bytes()
    Path(a_model).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UnusableInput, match="tiny"):
        draw(labelmap((1, 48, 48), (1.0, 1.0, 2.0)), a_model)
