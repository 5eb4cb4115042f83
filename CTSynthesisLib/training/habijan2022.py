"""Habijan & Galić (2022) as published: mask-conditioned patch GAN for cardiac CT slices. Numbers, one training step, one recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import RESOURCES, modelstore
from ..files import read_segmentation
from ..networks.mask_unet import MaskUNet, MaskUNetConfig
from ..networks.patch_critic import PatchCritic, PatchCriticConfig
from ..synthesis.habijan import frame, generate_slices, one_hot, to_hounsfield
from ..synthesis.mask_cgan import autocast, compute_dtype
from . import loop, losses
from .datasets import SlicePairs, axial_labels, structures_of
from .kept import Kept
from .pictures import draw_accuracy_curves, draw_loss_curves, draw_strip
from .strip import Strip


@dataclass(frozen=True)
class Habijan2022:
    """The numbers of section III. Those that the paper does not give are marked, with where they come from."""

    image_size: int = 256
    batch_size: int = 16
    learning_rate: float = 1.3e-4  # Adam, both networks
    adversarial_weight: float = 0.012  # λ of equation 3
    iterations: int = 100_000
    filters: int = 64  # not given; [18], the work whose approach the paper follows
    betas: tuple[float, float] = (0.5, 0.999)  # not given; [18]
    hu_range: tuple[float, float] = (-1000.0, 1000.0)  # not given ("normalization to the range of [0, 1]"); fixed, never per image
    seed: int = 0  # initial weights and order of the slices


class MaskConditionedGAN(Kept):
    """Generator G(y), discriminator D(y, x), and one training step as section II.B writes it.

    Parameters
    ----------
    preset : Habijan2022
    mask_channels : int
        Number of structures in the masks y.
    device : str
    precision : torch.dtype
        float32 as published, or bfloat16 for the convolutions where the hardware is faster with it; weights and losses stay float32.
    """

    KEPT = ("generator", "critic", "optimizer_G", "optimizer_D")

    def __init__(self, preset: Habijan2022, mask_channels: int, device: str = "cpu", precision: torch.dtype = torch.float32):
        sizes = dict(mask_channels=mask_channels, filters=preset.filters, most_filters=8 * preset.filters)
        self.preset, self.device, self.precision = preset, device, precision
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(preset.seed)
            generator, critic = MaskUNet(MaskUNetConfig(**sizes)), PatchCritic(PatchCriticConfig(**sizes))
            for network in (generator, critic):
                network.apply(_initialise)
        self.generator = generator.to(self.device, memory_format=torch.channels_last)
        self.critic = critic.to(self.device, memory_format=torch.channels_last)
        self.optimizer_G = torch.optim.Adam(self.generator.parameters(), preset.learning_rate, preset.betas)
        self.optimizer_D = torch.optim.Adam(self.critic.parameters(), preset.learning_rate, preset.betas)

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """One update of D, then one of G, from masks (B, channels, H, W) and images (B, 1, H, W) in [0, 1]."""
        self.y, self.x = (part.to(self.device, memory_format=torch.channels_last) for part in batch)
        with autocast(self.device, self.precision):
            self.optimize_parameters()
        return {
            "loss_D": self.loss_D.item(),
            "loss_G": self.loss_G.item(),
            "loss_adversarial": losses.adversarial_loss(self.on_fake).item(),
            "loss_reconstruction": losses.mean_absolute_error(self.fake, self.x).item(),
            "accuracy_real": losses.accuracy(self.on_real, real=True).item(),
            "accuracy_fake": losses.accuracy(self.on_fake_before, real=False).item(),
        }

    def optimize_parameters(self):
        self.generator.train()
        self.critic.train()
        self.fake = self.generator(self.y)  # G(y)

        self.critic.requires_grad_(True)
        self.optimizer_D.zero_grad()
        self.backward_D()
        self.optimizer_D.step()

        self.critic.requires_grad_(False)  # D only passes gradients on to G
        self.optimizer_G.zero_grad()
        self.backward_G()
        self.optimizer_G.step()

    def backward_D(self):
        """Equation 2: real pairs to 1, generated pairs to 0."""
        self.on_real = self.critic(self.y, self.x)
        self.on_fake_before = self.critic(self.y, self.fake.detach())
        self.loss_D = losses.critic_loss(self.on_real, self.on_fake_before)
        self.loss_D.backward()

    def backward_G(self):
        """Equation 3: λ · adversarial + mean absolute error."""
        self.on_fake = self.critic(self.y, self.fake)
        self.loss_G = losses.generator_loss(self.on_fake, self.fake, self.x, self.preset.adversarial_weight)
        self.loss_G.backward()


def _initialise(module: nn.Module):
    """Glorot uniform weights and no bias, the default of Keras, in which the paper's model was written."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def train(
    data: str | Path,
    out: str | Path,
    *,
    structure: str = "whole_heart",
    iterations: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    preset: Habijan2022 = Habijan2022(),
    checkpoint_every: int = 1000,
    on_log=None,
) -> Path:
    """Train one model, for one structure or for the whole heart (figure 4), and draw figures 2, 3 and 5 from its log.

    Parameters
    ----------
    data : path
        An MM-WHS folder, or one folder a case (see ``datasets.read_cases``).
    out : path
        Gets the log and checkpoint of ``loop.run``, ``habijan2022.safetensors`` and its card (for ``ctsynthesis generate --model``),
        ``losses.png``, ``accuracy.png``, ``strip.png`` (three of the training slices: it shows their CT), ``strip-sample.png`` (the
        bundled sample segmentation, where it has the structures) and ``samples/``: what the strips are made of.
    structure : str
        ``whole_heart`` for seven mask channels, else one structure (``LV`` … ``PA``, or a name in the anatomy table).
    iterations, minutes
        When to stop, whichever comes first; without either, the preset's 100 000 iterations.
    seed : int
        Of the initial weights and the order of the slices.
    on_log : callable
        ``on_log(iteration, figures)`` after each iteration.

    Returns
    -------
    Path
        The folder ``out``.
    """
    out = Path(out)
    device = loop.ready(out, resume, device, mps=True)
    preset = replace(preset, seed=seed)
    structures = structures_of(structure)
    pairs = SlicePairs(data, structures, image_size=preset.image_size, hu_range=preset.hu_range, seed=preset.seed)
    model = MaskConditionedGAN(preset, len(structures), device, compute_dtype(device))
    iterations = preset.iterations if iterations is None and minutes is None else iterations
    shown = [round(part * (len(pairs) - 1)) for part in (0.2, 0.5, 0.8)]
    labels = {"strip": pairs.labels[shown]}
    if (sample := sample_labels(pairs)) is not None:
        labels["strip-sample"] = sample

    def images():
        masks = {name: one_hot(values, len(structures)) for name, values in labels.items()}
        return {name: generate_slices(model.generator, mask)[:, 0] for name, mask in masks.items()}

    strip = Strip(images, out / "samples", iterations or preset.iterations)
    done = strip.run(
        model,
        lambda n: pairs.batch(n, preset.batch_size),
        out,
        iterations=iterations,
        minutes=minutes,
        resume=resume,
        checkpoint_every=checkpoint_every,
        on_log=on_log,
    )
    _export(model, structures, pairs, done, out)
    columns = loop.read_log(out)
    draw_loss_curves(columns, out / "losses.png")
    draw_accuracy_curves(columns, out / "accuracy.png")
    _draw_strips(strip, labels, pairs.hounsfield[shown], preset.hu_range, out)
    return out


def _draw_strips(strip: Strip, labels: dict[str, torch.Tensor], originals: torch.Tensor, hu_range, out: Path):
    """Figure 5: for each set of ``labels`` what was made of it; beside the training slices, their CT."""
    moments = strip.taken()
    for name, values in labels.items():
        columns = {f"iteration {done}": to_hounsfield(images[name], hu_range) for done, images in moments.items() if name in images}
        if name == "strip":
            columns["original"] = originals.float()
        draw_strip(values, columns, out / f"{name}.png")


def sample_labels(pairs: SlicePairs, count: int = 3) -> torch.Tensor | None:
    """``count`` slices of the bundled sample segmentation that show any of the structures, framed as for training; None without any."""
    path = RESOURCES / "Samples" / "thorax.seg.nrrd"
    if not path.exists():
        return None
    sample = read_segmentation(path)
    labels, spacing = axial_labels(sample, pairs.structures)
    shown = np.flatnonzero(labels.any((1, 2)))
    if not len(shown):
        return None
    chosen = [shown[round((n + 1) / (count + 1) * (len(shown) - 1))] for n in range(count)]
    return frame(labels[chosen], spacing, pairs.labels.shape[-1], labels=True)


def _export(model: MaskConditionedGAN, structures, pairs: SlicePairs, done: int, out: Path):
    """The generator alone, as a model file with its card, for ``ctsynthesis generate --model``."""
    modelstore.save_model(
        out,
        model.generator.state_dict(),
        name="habijan2022",
        title="Habijan & Galić 2022",
        kind="habijan2022",
        version=f"{done} iterations",
        description="Mask-conditioned patch GAN, as published: whole 256 × 256 slices, one at a time, without noise.",
        network={
            "generator": asdict(model.generator.config),
            "structures": list(structures),
            "image_size": model.preset.image_size,
        },
        hu_map={"range": list(model.preset.hu_range)},
        training_data=[f"{case}: {count} slices" for case, count in pairs.slices_of.items()],
        limits=["Slices do not know their neighbours.", "Everything outside its structures is guessed from where they lie."],
    )
