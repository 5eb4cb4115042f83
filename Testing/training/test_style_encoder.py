"""The recipe of the style encoder: what is exported computes what was trained, and a tiny training gives a usable model file."""

import pytest
import torch

from CTSynthesisLib.modelstore import load_card, load_weights
from CTSynthesisLib.networks.vgg import VGG19
from CTSynthesisLib.synthesis.style_features import ct_windows
from CTSynthesisLib.training.style_encoder import StyleEncoderRecipe, folded, normalised, train, with_batch_norm

LAYERS = tuple(range(1, 14))


@pytest.fixture
def some_hu():
    return torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0)) * 300


def test_batch_norm_is_folded_into_the_convolutions(some_hu):
    torch.manual_seed(0)
    trained = with_batch_norm(VGG19(4))
    trained(ct_windows(some_hu[:, None]), LAYERS)  # in training: this stores statistics
    trained.eval()
    for one, other in zip(*(net(ct_windows(some_hu[:, None]), LAYERS).values() for net in (trained, folded(trained))), strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-3)


def test_mean_activations_become_one_and_nothing_else_changes(some_hu):
    torch.manual_seed(0)
    vgg = folded(with_batch_norm(VGG19(4)).eval())
    for convolution in (layer for layer in vgg.features if isinstance(layer, torch.nn.Conv2d)):
        convolution.bias.data += 0.1
    before = vgg(ct_windows(some_hu[:, None]), LAYERS)
    after = normalised(vgg, some_hu)(ct_windows(some_hu[:, None]), LAYERS)
    for layer in LAYERS:
        means = before[layer].mean((0, 2, 3), keepdim=True)
        alive = means.flatten() > 1e-2
        assert torch.allclose((before[layer] / means)[:, alive], after[layer][:, alive], rtol=1e-2, atol=1e-2)


def test_a_tiny_training_gives_a_model_file(a_folder_of_scans, tmp_path):
    recipe = StyleEncoderRecipe(width=4, size=32, batch=2)
    assert train(a_folder_of_scans, tmp_path / "run", recipe=recipe, iterations=2, device="cpu", on_log=None) == 2
    card = load_card(str(tmp_path / "run" / "style_encoder.safetensors"))
    assert card.kind == "style_encoder" and not card.generates
    VGG19(4).load_state_dict(load_weights(card))
