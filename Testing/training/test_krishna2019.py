"""The preset krishna2019: its numbers, its training step, and a tiny training from files to a model that draws."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.networks.vgg import CONTENT_LAYERS, STYLE_LAYERS
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.krishna import grey_values, to_network
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.synthesis.style_features import load_features
from CTSynthesisLib.training import loop, style_losses
from CTSynthesisLib.training.krishna2019 import Krishna2019, StyleGAN, train
from CTSynthesisLib.training.style_slices import StyleImage, StyleSlices, most_telling, read_style
from CTSynthesisLib.volume import Volume
from Testing.phantom import hounsfield, thorax

TINY = Krishna2019(image_size=64, filters=4)


@pytest.fixture
def a_style():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    grey = torch.where((rows - 32) ** 2 + (columns - 32) ** 2 < 400, 50, 0).to(torch.uint8)
    grey[28:36, 28:36] = 200
    hu = torch.where(grey == 0, -1000.0, torch.where(grey == 50, 40.0, 300.0))
    return StyleImage(hu + torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 20, grey, "a style")


@pytest.fixture
def a_batch(a_style):
    return a_style.hounsfield.flip(1)[None, None] + 5, a_style.grey.flip(1)[None, None], torch.zeros(1, 200)


def test_numbers_are_those_of_the_paper(a_style):
    preset = Krishna2019()
    assert (preset.image_size, preset.epochs, preset.noise) == (512, 100, 200)
    model = StyleGAN(TINY, a_style, load_features())
    assert isinstance(model.optimizer_G, torch.optim.Adam) and type(model.optimizer_D) is torch.optim.SGD
    assert STYLE_LAYERS == (1, 3, 5, 9, 13) and CONTENT_LAYERS == (10,)


def test_the_generator_begins_with_the_label_map_in_rough_hounsfield_units(a_style, a_batch):
    model = StyleGAN(replace(TINY, filters=32), a_style, load_features())
    grey = torch.zeros_like(a_batch[1])
    for n, value in enumerate((0, 50, 100, 150, 200, 230)):  # air, lungs, body, heart, bone, spinal cord, side by side
        grey[..., n * 11 : (n + 1) * 11] = value
    with torch.no_grad():
        drawn = model.generator.eval()(to_network(grey), a_batch[2])[0, 0] * 1000
    means = [float(drawn[:, n * 11 + 2 : n * 11 + 9].mean()) for n in range(6)]
    assert means == pytest.approx([-953, -730, 50, 236, 397, 486], abs=40)  # tanh(0.05 + 2.4 (y - body)), above the body a fifth as steep
    assert max(float(drawn[:, n * 11 + 2 : n * 11 + 9].std()) for n in range(6)) < 30
    assert abs(float(drawn[:, 10].mean()) - means[0]) < 40 and abs(float(drawn[:, 11].mean()) - means[1]) < 40  # borders stay sharp


def test_one_step_changes_d_by_equation_9_and_g_by_equation_8_only(a_style, a_batch):
    features = load_features()
    model = StyleGAN(TINY, a_style, features)
    generator, critic = copy.deepcopy(model.generator), copy.deepcopy(model.critic)
    figures = model.step(a_batch)

    x_o, grey, z = a_batch
    y, x = to_network(grey), (x_o.clamp(-1000, 1000)) / 1000
    fake = generator(y, z)
    loss_D = style_losses.critic_loss(critic(x, y), critic(fake.detach(), y))
    loss_D.backward()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter -= TINY.learning_rate_D * parameter.grad  # plain SGD
    result = features(fake * 1000)
    masks = [(grey == value).float() for value in (0, 50, 200)]
    style_masks = [(a_style.grey[None, None] == value).float() for value in (0, 50, 200)]
    style = features(a_style.hounsfield[None, None])
    loss_s = style_losses.style_loss({n: result[n] for n in STYLE_LAYERS}, style, masks, style_masks)
    loss_c = style_losses.content_loss({10: result[10]}, features(x_o), masks)
    weights = TINY.style_weight, TINY.content_weight, TINY.variation_weight
    loss_G = style_losses.generator_loss(critic(fake, y), loss_s, loss_c, style_losses.total_variation(fake), weights)
    assert figures["loss_D"] == pytest.approx(loss_D.item(), rel=1e-3)
    assert figures["loss_G"] == pytest.approx(loss_G.item(), rel=1e-3)
    for ours, theirs in zip(model.critic.parameters(), critic.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_segments_that_the_style_lacks_are_left_out_of_equation_6(a_style, a_batch):
    model = StyleGAN(TINY, a_style, load_features())
    assert model.segments == [0, 50, 200]
    hu, grey, z = a_batch
    with_lungs = grey.clone()
    with_lungs[..., 20:24, 40:46] = 100
    figures = model.step((hu, with_lungs, z))
    assert np.isfinite(list(figures.values())).all()


def test_label_maps_become_the_six_grey_values():
    labelmap = thorax((4, 30, 30))
    from CTSynthesisLib.anatomy import understand

    grey = grey_values(labelmap.array, understand(labelmap.segments))
    expected = {0: 0, 1: 100, 2: 50, 3: 50, 4: 150, 5: 100, 6: 200}  # the aorta is none of the six, so it is body
    for value, wanted in expected.items():
        assert set(grey[labelmap.array == value].tolist()) <= {wanted}


def test_slices_are_taken_about_the_one_that_shows_most():
    grey = np.zeros((21, 10, 10), np.uint8)
    grey[:, 2:8, 2:8] = 50
    grey[10, 3:6, 3:6] = 100
    assert most_telling(grey, spacing=5.0, count=3) == [6, 10, 14]  # 20 mm apart
    annotated = np.zeros(21, bool)
    annotated[[2, 3]] = True
    assert most_telling(grey, spacing=5.0, count=2, annotated=annotated) == [2, 3]


@pytest.fixture(scope="module")
def two_cases(tmp_path_factory):
    """Two annotated phantoms and a style scan."""
    folder = tmp_path_factory.mktemp("krishna")
    for n, name in enumerate(("one", "two", "style")):
        labelmap = thorax(shape=(10, 80 + 4 * n, 100), spacing=(3.4, 3.4, 5.0))
        case = folder / ("style" if name == "style" else f"data/{name}")
        case.mkdir(parents=True)
        write_volume(Volume(hounsfield(labelmap, noise=15), labelmap.geometry), case / "ct.nrrd")
        write_segmentation(labelmap, case / "segmentation.nrrd")
        (case / "labels.json").write_text(json.dumps({s.value: s.name for s in labelmap.segments}))
    return folder


def test_a_tiny_training_from_files_to_a_model_that_draws_and_resumes_bit_for_bit(two_cases, tmp_path):
    style = two_cases / "style" / "ct.nrrd"
    out = train(two_cases / "data", tmp_path / "run", style=style, iterations=4, preset=TINY, checkpoint_every=2, device="cpu")
    for name in ("losses.png", "strip.png", "strip-sample.png", "krishna2019.json", "krishna2019.safetensors"):
        assert (out / name).stat().st_size > 0
    log = loop.read_log(out)
    assert log["iteration"] == [1, 2, 3, 4] and {"loss_style", "loss_content", "loss_variation"} <= set(log)

    halves = tmp_path / "halves"
    train(two_cases / "data", halves, style=style, iterations=2, preset=TINY, device="cpu")
    train(two_cases / "data", halves, style=style, iterations=4, preset=TINY, device="cpu", resume=True)
    whole, resumed = (loop.load_weights(folder) for folder in (out, halves))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    card = load_card(str(out / "krishna2019.safetensors"))
    assert card.network["features"] == "style_encoder" and card.network["style"] == "style"
    labelmap = thorax((3, 40, 48), (7.0, 7.0, 10.0))
    drawn = [generate(labelmap, Request(model=card.path, seed=seed, device="cpu")).volume.array for seed in (0, 0, 1)]
    assert drawn[0].shape == labelmap.array.shape and (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


def test_own_annotations_count_and_the_style_has_its_own(two_cases, tmp_path):
    slices = StyleSlices(two_cases / "data", tmp_path / "cases", image_size=64, per_case=2)
    assert slices.slices_of == {"one": 2, "two": 2} and {0, 50, 100, 150, 200} <= set(slices.grey.unique().tolist())
    image = read_style(two_cases / "style" / "ct.nrrd", image_size=64)
    assert 150 in image.grey.unique() and image.name == "style"  # the heart is known from the segmentation beside it only
    few = replace(TINY, slices_per_case=1)
    assert few.slices_per_case == 1 and few.depth == 4


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "--style CT"),
        (("--style", "nowhere.nrrd"), "nowhere.nrrd"),
        (("--style", "x.nrrd", "--slices-per-case", "0"), "slices-per-case"),
        (("--style", "x.nrrd", "--leave-out", "one"), "leave-out"),
    ],
)
def test_the_command_refuses_in_a_sentence(two_cases, tmp_path, capfd, more, sentence):
    assert main(["train", "krishna2019", "--data", str(two_cases / "data"), "-o", str(tmp_path / "out"), *more]) == 2
    error = capfd.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_style_belongs_to_the_preset_that_knows_it(two_cases, tmp_path, capfd):
    assert main(["train", "default", "--data", str(two_cases / "data"), "-o", str(tmp_path / "out"), "--style", "x.nrrd"]) == 2
    assert "krishna2019" in capfd.readouterr().err
