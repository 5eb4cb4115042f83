"""Krishna & Mueller (2019) as published: one generator a style image. Numbers, one training step, one recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import RESOURCES, modelstore
from ..anatomy import understand
from ..files import read_segmentation
from ..networks.style_critic import StyleCritic, StyleCriticConfig
from ..networks.style_generator import StyleGenerator, StyleGeneratorConfig
from ..networks.vgg import CONTENT_LAYERS, STYLE_LAYERS
from ..synthesis.habijan import frame, to_hounsfield, to_unit
from ..synthesis.krishna import generate_slices, grey_values, noise_code, segment_values, to_network
from ..synthesis.mask_cgan import autocast, compute_dtype
from ..synthesis.style_features import StyleFeatures, load_features
from ..volume import reorder
from . import loop, style_losses
from .kept import Kept
from .pictures import draw_loss_curves, draw_strip
from .strip import Strip
from .style_slices import StyleImage, StyleSlices, read_style


@dataclass(frozen=True)
class Krishna2019:
    """The numbers of section 2. Those that the paper does not give are marked, with where they come from."""

    image_size: int = 512
    epochs: int = 100
    noise: int = 200  # dimensions of z
    learning_rate_G: float = 1e-4  # Adam; not given: half of DCGAN's (its reference 5), whose momenta these are; faster, style rises again
    betas: tuple[float, float] = (0.5, 0.999)
    learning_rate_D: float = 2e-4  # plain SGD; not given, ours: ten times that, and D is sure of itself within 40 iterations
    style_weight: float = 10.0  # w_s, w_c and w_tv are not given: chosen so that the terms of equation 8 weigh alike on our encoder
    content_weight: float = 50.0
    variation_weight: float = 0.008  # of a sum over the image: of smaller ones two to three times that for each halving
    filters: int = 32  # not given; half of what DCGAN has, so that an hour on a small GPU is enough
    hu_range: tuple[float, float] = (-1000.0, 1000.0)  # that is -1..1; not given, fixed, never per image
    # Slope and shift of the start; initial weights are not given. G begins as the label map in rough HU (_begin_with_labels): flat images,
    # with which other weights begin, are local minima of style and content; from air G does not leave air, in soft tissue no air appears.
    begin: tuple[float, float] = (2.4, 0.05)
    slices_per_case: int = 2  # "1-2 images from a similar anatomical position of each patient"
    seed: int = 0  # initial weights, order of the slices, codes z

    @property
    def depth(self) -> int:
        """Layers of stride 2 from the image to 4×4."""
        return int(np.log2(self.image_size // 4))


class StyleGAN(Kept):
    """Generator G(y, z), discriminator D(x, y), and one training step as section 2.2 writes it.

    Parameters
    ----------
    style : StyleImage
        x_s: the generator learns this style and no other. Segments that it does not show have no style to transfer; equation 6 is summed
        over the others.
    features : StyleFeatures
        φ of equation 1.
    precision : torch.dtype
        float32 as published, or bfloat16 for the convolutions where the hardware is faster with it; weights and losses stay float32.
    """

    KEPT = ("generator", "critic", "optimizer_G", "optimizer_D")

    def __init__(self, preset: Krishna2019, style: StyleImage, features: StyleFeatures, device="cpu", precision=torch.float32):
        self.preset, self.device, self.precision, self.features = preset, device, precision, features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(preset.seed)
            sizes = dict(filters=preset.filters, most_filters=8 * preset.filters, depth=preset.depth)
            self.generator = StyleGenerator(StyleGeneratorConfig(noise=preset.noise, **sizes))
            self.critic = StyleCritic(StyleCriticConfig(**sizes))
            for network in (self.generator, self.critic):
                network.apply(_initialise)
            _begin_with_labels(self.generator, *preset.begin)
        for network in (self.generator, self.critic, features.network):
            network.to(device, memory_format=torch.channels_last)
        self.optimizer_G = torch.optim.Adam(self.generator.parameters(), preset.learning_rate_G, preset.betas)
        self.optimizer_D = torch.optim.SGD(self.critic.parameters(), preset.learning_rate_D)
        self.segments = [value for value in segment_values().values() if (style.grey == value).any()]
        self.style_masks = self._masks(style.grey[None, None].to(device))
        with torch.no_grad(), autocast(self.device, self.precision):
            self.style_features = self._float(features(style.hounsfield[None, None].to(device), STYLE_LAYERS))

    def step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """One update of D, then one of G, from HU x_o (1, 1, H, W), grey values y (1, 1, H, W) and a code z (1, 200)."""
        self.x_o, grey, z = (part.to(self.device) for part in batch)
        self.y, self.masks = to_network(grey), self._masks(grey)
        self.x = 2 * to_unit(self.x_o, self.preset.hu_range) - 1
        with autocast(self.device, self.precision):
            self.fake = self.generator(self.y, z)  # G(y, z)

            self.critic.requires_grad_(True)
            self.optimizer_D.zero_grad()
            self.backward_D()
            self.optimizer_D.step()

            self.critic.requires_grad_(False)  # D only passes gradients on to G
            self.optimizer_G.zero_grad()
            self.backward_G()
            self.optimizer_G.step()
        return {
            "loss_D": self.loss_D.item(),
            "loss_G": self.loss_G.item(),
            "loss_style": self.loss_style.item(),
            "loss_content": self.loss_content.item(),
            "loss_variation": self.loss_variation.item(),
            "real": self.on_real.sigmoid().mean().item(),
            "fake": self.on_fake.sigmoid().mean().item(),
        }

    def backward_D(self):
        """Equation 9."""
        self.on_real = self.critic(self.x, self.y)
        self.loss_D = style_losses.critic_loss(self.on_real, self.critic(self.fake.detach(), self.y))
        self.loss_D.backward()

    def backward_G(self):
        """Equation 8, from equations 5 to 7."""
        self.on_fake = self.critic(self.fake, self.y)
        result = self._float(self.features(to_hounsfield((self.fake + 1) / 2, self.preset.hu_range)))
        with torch.no_grad():
            original = self._float(self.features(self.x_o, CONTENT_LAYERS))
        self.loss_style = style_losses.style_loss(_only(result, STYLE_LAYERS), self.style_features, self.masks, self.style_masks)
        self.loss_content = style_losses.content_loss(_only(result, CONTENT_LAYERS), original, self.masks)
        self.loss_variation = style_losses.total_variation(self.fake)
        weights = (self.preset.style_weight, self.preset.content_weight, self.preset.variation_weight)
        self.loss_G = style_losses.generator_loss(self.on_fake, self.loss_style, self.loss_content, self.loss_variation, weights)
        self.loss_G.backward()

    def _masks(self, grey):
        return [(grey == value).float() for value in self.segments]

    @staticmethod
    def _float(features):
        return {layer: f.float() for layer, f in features.items()}


def _only(features, layers):
    return {layer: features[layer] for layer in layers}


def _initialise(module: nn.Module):
    """DCGAN's: normal with standard deviation 0.02, batch norm about 1."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@torch.no_grad()
def _begin_with_labels(generator: StyleGenerator, slope: float, shift: float, deeper: float = 0.1):
    """G(y, z) begins near tanh(shift + slope · (y - body)) up to the body's grey value, and rises a fifth as steeply above it (leaky ReLU).

    The outermost skip connection hands the label map from the first layer to the last: each filter of the first picks one of the four
    pixels under its stride, the last puts them back in their places. What the layers between add is scaled by ``deeper``.
    """
    first, last = generator.down[0][0], generator.end
    last.weight.zero_()
    for channel in range(first.out_channels):
        row, column = 1 + channel % 4 // 2, 1 + channel % 2
        first.weight[channel, 0, row, column] -= 1
        last.weight[channel, 0, row, column] = -4 * slope / first.out_channels
    first.bias.fill_(float(to_network(torch.tensor(segment_values()["body"]))))
    last.bias.fill_(shift)
    generator.up[-1][1].weight.mul_(deeper)


def train(
    data: str | Path,
    out: str | Path,
    *,
    style: str | Path,
    style_segmentation: str | Path | None = None,
    imagenet: str | Path | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    device: str = "auto",
    preset: Krishna2019 = Krishna2019(),
    checkpoint_every: int = 250,
    on_log=None,
) -> Path:
    """Train one generator for the style of one scan.

    Parameters
    ----------
    data : path
        One folder a case (see ``slab_data.load_cases``): the contents.
    out : path
        Gets the log and checkpoint of ``loop.run``, ``krishna2019.safetensors`` and its card (for ``ctsynthesis generate --model``),
        ``losses.png``, ``strip.png`` (training slices: **it shows their CT and the style scan**) and ``strip-sample.png`` (the bundled
        sample segmentation, whose CT nobody has).
    style : path
        The CT whose style is learned; ``style_segmentation`` its own masks, else those beside it or its tissue regions.
    imagenet : path, optional
        torchvision's VGG-19 weights; without them the encoder that ships.
    iterations, minutes
        When to stop, whichever comes first; without either, 100 epochs.

    Returns
    -------
    Path
        The folder ``out``.
    """
    out = Path(out)
    device = loop.ready(out, resume, device, mps=True)
    features = load_features(imagenet)
    image = read_style(style, style_segmentation, image_size=preset.image_size)
    slices = StyleSlices(data, out / "cases", image_size=preset.image_size, per_case=preset.slices_per_case, seed=preset.seed)
    model = StyleGAN(preset, image, features, device, compute_dtype(device))
    last = preset.epochs * len(slices) if iterations is None and minutes is None else iterations
    shown = [round(part * (len(slices) - 1)) for part in (0.2, 0.5, 0.8)]
    grey = {"strip": slices.grey[shown], "strip-sample": sample_slices(preset.image_size)}

    def images():
        z = noise_code(0, preset.noise)
        return {name: generate_slices(model.generator, to_network(values[:, None]), z)[:, 0] for name, values in grey.items()}

    strip = Strip(images, out / "samples", last or preset.epochs * len(slices))

    def batches(n):
        return *slices.pair(n), noise_code(preset.seed * 1_000_003 + n, preset.noise)

    done = strip.run(model, batches, out, iterations=last, minutes=minutes, resume=resume, checkpoint_every=checkpoint_every, on_log=on_log)
    _export(model, image, slices, done, out)
    draw_loss_curves(loop.read_log(out), out / "losses.png")
    _draw_strips(strip, grey, slices.hounsfield[shown], image, preset.hu_range, out)
    return out


def _draw_strips(strip: Strip, grey: dict[str, torch.Tensor], originals: torch.Tensor, style: StyleImage, hu_range, out: Path):
    """For each set of label maps what was made of it, beside the style image; beside the training slices, their CT too."""
    moments = strip.taken()
    for name, values in grey.items():
        columns = {f"iteration {n}": to_hounsfield((images[name] + 1) / 2, hu_range) for n, images in moments.items()}
        if name == "strip":
            columns["original"] = originals.float()
        columns["style"] = style.hounsfield.expand(len(values), -1, -1)
        indices = sum((values == value).to(torch.uint8) * n for n, value in enumerate(segment_values().values()))
        draw_strip(indices, columns, out / f"{name}.png")


@lru_cache(maxsize=1)
def sample_slices(image_size: int, count: int = 3) -> torch.Tensor:
    """Grey values (count, size, size) of slices of the bundled sample segmentation, framed as for training."""
    sample = read_segmentation(RESOURCES / "Samples" / "thorax.seg.nrrd")
    axes = sample.geometry.anatomical_axes
    columns, rows, _ = sample.geometry.reordered(*axes).spacing
    labels = reorder(sample.array, *axes)
    chosen = [round((n + 1) / (count + 1) * (len(labels) - 1)) for n in range(count)]
    return frame(grey_values(labels[chosen], understand(sample.segments)), (rows, columns), image_size, labels=True)


def _export(model: StyleGAN, style: StyleImage, slices: StyleSlices, done: int, out: Path):
    """The generator alone, as a model file with its card, for ``ctsynthesis generate --model``."""
    modelstore.save_model(
        out,
        model.generator.state_dict(),
        name="krishna2019",
        title="Krishna & Mueller 2019",
        kind="krishna2019",
        version=f"{done} iterations",
        description=f"Style of {style.name}, as published: whole 512 × 512 slices, one at a time. Style features: {model.features.name}.",
        network={"generator": asdict(model.generator.config), "image_size": model.preset.image_size, "style": style.name,
                 "features": model.features.name, "preset": asdict(replace(model.preset))},
        hu_map={"range": list(model.preset.hu_range)},
        training_data=[f"{case}: {count} slices" for case, count in slices.slices_of.items()],
        limits=["One style, that of its style image.", "Slices do not know their neighbours."],
    )  # fmt: skip
