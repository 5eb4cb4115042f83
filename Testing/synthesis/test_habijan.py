"""From label maps to volumes with a habijan2022 generator, here an untrained one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.networks.mask_unet import MaskUNet, MaskUNetConfig
from CTSynthesisLib.synthesis import habijan
from CTSynthesisLib.volume import Geometry, LabelMap, Segment


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny networks run faster on one thread than on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def a_model_folder(tmp_path):
    torch.manual_seed(0)
    config = dict(mask_channels=2, filters=2, most_filters=4)
    network = MaskUNet(MaskUNetConfig(**config))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, 0, 1)  # so that masks show in the untrained images
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    card = {"generator": config, "structures": ["heart", "aorta"], "image_size": 128, "hu_range": [-1000.0, 1000.0]}
    (tmp_path / "model.json").write_text(json.dumps(card))
    return tmp_path


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


def test_draws_on_the_grid_of_the_label_map_however_it_is_stored(a_model_folder):
    trained = habijan.load(a_model_folder)
    straight = labelmap((3, 48, 64), (1.0, 1.0, 2.0))
    volume = habijan.generate(straight, trained)
    assert volume.dtype == np.int16 and volume.shape == (3, 48, 64) and volume.min() >= -1000 and volume.max() <= 1000
    # the same segmentation as a sagittal stack: k to the left, j to the feet, i to the back
    turned_matrix = straight.geometry.ijk_to_ras @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1]])
    turned = LabelMap(straight.array.transpose(2, 0, 1)[:, ::-1], Geometry((64, 3, 48), turned_matrix), straight.segments)
    assert np.array_equal(habijan.axial_view(turned.array, turned.geometry), straight.array)
    assert np.array_equal(habijan.generate(turned, trained), volume.transpose(2, 0, 1)[:, ::-1])


def test_each_structure_has_its_own_channel_and_parts_count_for_the_whole(a_model_folder):
    trained = habijan.load(a_model_folder)
    heart, chamber, aorta = (
        habijan.generate(labelmap((1, 48, 48), (1.0, 1.0, 2.0), name), trained) for name in ("heart", "heart_ventricle_left", "aorta")
    )
    assert np.array_equal(heart, chamber) and not np.array_equal(heart, aorta)


def test_tells_progress_after_each_slice(a_model_folder):
    told = []
    habijan.generate(labelmap((4, 32, 32), (1.0, 1.0, 2.0)), habijan.load(a_model_folder), progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_a_segmentation_without_its_structures_is_refused(a_model_folder):
    with pytest.raises(UnusableInput, match="heart, aorta"):
        habijan.generate(labelmap((1, 48, 48), (1.0, 1.0, 2.0), "liver"), habijan.load(a_model_folder))


def test_a_missing_or_damaged_model_is_named(a_model_folder):
    weights = (a_model_folder / "model.safetensors").read_bytes()
    (a_model_folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UnusableInput, match="no whole habijan2022 model"):
        habijan.load(a_model_folder)
    with pytest.raises(UnusableInput, match="no whole habijan2022 model"):
        habijan.load(a_model_folder / "nowhere")
