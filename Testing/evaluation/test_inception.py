"""Features of the usual Inception network: the published file's layout, refusals, and the score by hand."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation.inception import all_planes, inception_score, load_inception, score_of
from CTSynthesisLib.networks.inception import Inception
from CTSynthesisLib.volume import Geometry, Volume
from Testing.evaluation.segmenters import a_person

PUBLISHED = {  # a sample of names and shapes in pt_inception-2015-12-05-6726825d.pth
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
    "Mixed_6e.branch7x7dbl_5.bn.running_var": (192,),
    "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "fc.weight": (1008, 2048),
}


@pytest.fixture(scope="module")
def a_weights_file(tmp_path_factory):
    """Random weights in the published layout, which has no counters of batches."""
    torch.manual_seed(0)
    weights = {name: tensor for name, tensor in Inception().state_dict().items() if not name.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(weights, path)
    return path


def test_the_layout_is_the_published_one():
    weights = Inception().state_dict()
    assert {name: tuple(weights[name].shape) for name in PUBLISHED} == PUBLISHED
    assert sum(name.endswith("conv.weight") for name in weights) == 94


def test_features_of_a_scan(a_weights_file):
    person = a_person(0)
    crop = Volume(person.array[:20], Geometry.from_spacing((20, *person.array.shape[1:]), (3.0, 3.0, 3.0)))
    found = all_planes(crop, a_weights_file, planes=("axial",))["axial"]
    assert found.shape == (6, 2048) and np.isfinite(found).all()
    assert inception_score([crop], a_weights_file) >= 1


def test_the_classifiers_bias_is_not_in_the_score():
    torch.manual_seed(0)
    network = Inception().eval().requires_grad_(False)
    x = torch.rand(1, 3, 299, 299)
    with torch.inference_mode():
        before = network(x)[1]
        network.fc.bias.fill_(7)
        assert torch.equal(network(x)[1], before)


def test_the_score_by_hand():
    assert score_of(np.eye(5)) == pytest.approx(5)  # certain and diverse
    assert score_of(np.full((4, 5), 0.2)) == pytest.approx(1)  # no certainty
    half = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert score_of(half) == pytest.approx(np.exp(np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1)))


def test_another_file_is_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    (tmp_path / "text.pth").write_text("not weights")
    for name in ("odd.pth", "text.pth", "missing.pth"):
        with pytest.raises(UnusableInput, match=name):
            load_inception(str(tmp_path / name))
