"""The networks of paper 001: what they are made of, batch norm with a batch of one, and VGG-19's published layout."""

import pytest
import torch
from torch import nn

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.networks.style_critic import StyleCritic, StyleCriticConfig
from CTSynthesisLib.networks.style_generator import StyleGenerator, StyleGeneratorConfig
from CTSynthesisLib.networks.vgg import CONTENT_LAYERS, STYLE_LAYERS, VGG19
from CTSynthesisLib.synthesis import style_features
from CTSynthesisLib.synthesis.krishna import generate_slices
from CTSynthesisLib.synthesis.style_features import ct_windows, load_features

SMALL = StyleGeneratorConfig(filters=4, most_filters=8, depth=4)


@pytest.fixture
def a_generator():
    torch.manual_seed(0)
    return StyleGenerator(SMALL)


def test_layers_are_those_of_the_paper():
    with torch.device("meta"):
        generator, critic = StyleGenerator(), StyleCritic()
    layers = [m for net in (generator, critic) for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert {(m.kernel_size, m.stride) for m in layers} == {((4, 4), (2, 2))}
    assert len(generator.down) == 7 and len(generator.up) == 6 and generator.noise.in_features == 200
    assert sum(p.numel() for p in generator.noise.parameters()) < 300_000  # onto 512 × 512 it would be 52 million
    narrow = dict(filters=2, most_filters=4)
    assert StyleGenerator(StyleGeneratorConfig(**narrow))(torch.zeros(1, 1, 512, 512), torch.zeros(1, 200)).shape == (1, 1, 512, 512)
    assert StyleCritic(StyleCriticConfig(**narrow))(*torch.zeros(2, 1, 1, 512, 512)).shape == (1,)


def test_output_is_a_tanh_and_depends_on_the_code(a_generator):
    y = torch.rand(1, 1, 64, 64) * 2 - 1
    one, other = (a_generator.eval()(y, torch.full((1, 200), value)) for value in (0.0, 2.0))
    assert one.abs().max() < 1 and not torch.equal(one, other)


def test_at_inference_batch_norm_uses_what_it_stored_and_a_batch_of_one_is_enough(a_generator):
    y, z = torch.rand(3, 1, 64, 64), torch.randn(3, 200)
    for n in range(3):
        a_generator.train()(y[n : n + 1], z[n : n + 1])  # mini-batches of one, as in training: this stores averages
    with torch.no_grad():
        together = a_generator.eval()(y, z)
        alone = torch.cat([a_generator(y[n : n + 1], z[n : n + 1]) for n in range(3)])
        assert torch.allclose(together, alone, atol=1e-5)  # no image depends on what else is in the batch
        in_training = a_generator.train()(y[:1], z[:1])
    assert not torch.allclose(in_training, alone[:1], atol=1e-3)  # there each image is normalised by itself
    drawn = generate_slices(a_generator, y[:1], z[:1])  # the generator is in training: drawing samples must not change it
    assert torch.allclose(drawn, alone[:1], atol=0.02) and a_generator.training


def test_the_critic_judges_image_and_labels_together():
    torch.manual_seed(0)
    critic = StyleCritic(StyleCriticConfig(filters=4, most_filters=8, depth=4)).eval()
    x, y = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
    assert critic(x, y).shape == (2,) and not torch.equal(critic(x, y), critic(x, y.flip(3)))


# -- VGG-19 ------------------------------------------------------------------------------------------------------------------------


def test_vgg_has_the_published_layout_and_counts_relus_as_the_paper_does():
    with torch.device("meta"):
        vgg = VGG19()
    names = {f"features.{n}.{kind}" for n in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28) for kind in ("weight", "bias")}
    assert set(vgg.state_dict()) == names  # torchvision's names
    found = vgg(torch.empty(1, 3, 64, 64, device="meta"))
    assert [tuple(found[layer].shape[1:]) for layer in STYLE_LAYERS] == [
        (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]  # fmt: skip
    assert CONTENT_LAYERS == (10,) and found[10].shape[1:] == (512, 8, 8)  # relu4_2


def test_published_weights_are_read_from_the_users_file_and_no_other(tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = {f"features.{n}.{k}": v for n, layer in enumerate(VGG19().features) for k, v in layer.state_dict().items()}
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    torch.save({**whole, "classifier.6.bias": torch.zeros(1000)}, path)
    with pytest.raises(UnusableInput, match="checksum differs"):
        load_features(path)
    with pytest.raises(UnusableInput, match="missing.pth.*vgg19-dcbb9e9d.pth"):
        load_features(tmp_path / "missing.pth")
    import hashlib

    monkeypatch.setattr(style_features, "IMAGENET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())  # as if it were the file
    features = load_features(path)
    assert features.name == "imagenet"
    grey = features.network(style_features.imagenet_grey(torch.zeros(1, 1, 16, 16)), (1,))
    assert torch.equal(features(torch.zeros(1, 1, 16, 16), (1,))[1], grey[1])


def test_the_encoder_that_ships_tells_tissues_and_grain_apart(monkeypatch):
    monkeypatch.delenv(style_features.ENVIRONMENT, raising=False)
    features = load_features()
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 1, 64, 64, generator=g)
    fine, coarse = noise * 12, torch.nn.functional.avg_pool2d(noise.flatten(0, 1), 5, 1, 2).reshape(noise.shape) * 60

    def style(hu):
        return {layer: style_features.gram(f)[0] / f[0, 0].numel() for layer, f in features(hu, STYLE_LAYERS).items()}

    def distance(a, b):
        return sum(float((a[n] - b[n]).square().sum() / b[n].square().sum()) for n in STYLE_LAYERS)

    muscle, again, smooth, fat = (style(hu) for hu in (50 + fine[0], 50 + fine[1], 50 + coarse[0], -100 + fine[0]))
    assert distance(again, muscle) < 0.2 * distance(smooth, muscle)
    assert distance(again, muscle) < 0.05 * distance(fat, muscle)


def test_windows_keep_a_gradient_everywhere():
    hu = torch.linspace(-1000, 1500, 20).reshape(1, 1, 4, 5).requires_grad_()
    ct_windows(hu).sum().backward()
    assert (hu.grad > 1e-6).all()
