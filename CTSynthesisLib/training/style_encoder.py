"""The recipe of the style encoder: ``ctsynthesis train style_encoder --data DIR -o DIR``.

A VGG-19-shaped network, a quarter as wide, that learns two things of axial crops at once: which tissue each pixel belongs to, from the
features of every style layer, and which scan the crop comes from, from their means and spreads. The first makes the features tell tissues
apart, the second textures: kernel, dose, thickness and contrast medium are what one scan has and another has not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..modelstore import ModelCard, save_model
from ..networks.vgg import STYLE_LAYERS, VGG19
from ..synthesis.condition import AIR
from ..synthesis.mask_cgan import autocast
from ..synthesis.style_features import ct_windows
from .kept import Kept, weights_of
from .loop import load_weights, ready, run
from .slab_data import Case, load_cases

CLASSES = 8  # the tissues of synthesis.condition
NORM_EVERY = 64  # crops that measure the mean activations on export


@dataclass(frozen=True)
class StyleEncoderRecipe:
    width: int = 16
    size: int = 128  # pixels of a crop
    batch: int = 10
    rate: float = 2e-3
    seed: int = 0
    iterations: int = 2500
    scale: float = 0.25  # crops are enlarged or reduced by up to this share
    offset: float = 30.0  # HU, added to half the crops, so that tissues are not known by their HU alone
    texture: float = 0.3  # weight of the question which scan it is


class CaseSlices:
    """``batch(n)``: crops in HU (B, H, W), their tissues (B, H, W) and scans (B,), a function of n alone."""

    def __init__(self, cases: list[Case], recipe: StyleEncoderRecipe):
        self.cases, self.recipe = cases, recipe
        self.tissue = [np.array([case.tissue.get(value, AIR) for value in range(256)], np.float32) for case in cases]

    def __call__(self, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.recipe.seed, n))
        crops = [self._crop(rng) for _ in range(self.recipe.batch)]
        return tuple(torch.stack(parts) for parts in zip(*crops, strict=True))

    def _crop(self, rng):
        number = int(rng.integers(len(self.cases)))
        case, recipe = self.cases[number], self.recipe
        for _ in range(10):  # a place within the body
            k, j, i = (int(rng.integers(n)) for n in case.hu.shape)
            if case.values[k, j, i]:
                break
        side = round(recipe.size * float(np.exp(rng.uniform(-recipe.scale, recipe.scale))))
        window = tuple(slice(max(at - side // 2, 0), max(at - side // 2, 0) + side) for at in (j, i))
        hu = torch.from_numpy(case.hu[k][window].astype(np.float32))
        tissue = torch.from_numpy(self.tissue[number][case.values[k][window]])
        beyond = (0, side - hu.shape[1], 0, side - hu.shape[0])
        hu, tissue = F.pad(hu, beyond, value=-1000.0), F.pad(tissue, beyond)
        if rng.random() < 0.5:
            size = (recipe.size, recipe.size)
            hu = F.interpolate(hu[None, None], size, mode="bilinear", antialias=True)[0, 0]
            tissue = F.interpolate(tissue[None, None], size, mode="nearest-exact")[0, 0]
        else:  # not resampled, so that the scanner's own grain is seen too
            fit = recipe.size - side
            hu, tissue = F.pad(hu, (0, fit, 0, fit), value=-1000.0), F.pad(tissue, (0, fit, 0, fit))
        if rng.random() < 0.5:
            hu = hu + float(rng.uniform(-recipe.offset, recipe.offset))
        if rng.random() < 0.5:
            hu, tissue = hu.flip(1), tissue.flip(1)
        return hu, tissue.long(), torch.tensor(number)


class StyleEncoderModel(Kept):
    """Cross-entropy of the tissues plus, weighed, that of the scan; Adam on a cosine."""

    KEPT = ("all", "optimizer", "done")

    def __init__(self, recipe: StyleEncoderRecipe, scans: int, iterations: int, device: str = "cpu"):
        torch.manual_seed(recipe.seed)
        self.recipe, self.iterations, self.device, self.done = recipe, iterations, device, 0
        self.vgg = with_batch_norm(VGG19(recipe.width))
        channels = [VGG19(recipe.width).channels(layer) for layer in STYLE_LAYERS]
        self.tissues = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in channels)
        self.scans = nn.Linear(2 * sum(channels), scans)
        self.all = nn.ModuleDict({"vgg": self.vgg, "tissues": self.tissues, "scans": self.scans}).to(device)
        for module in self.vgg.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.optimizer = torch.optim.AdamW(self.all.parameters(), recipe.rate, weight_decay=1e-4)

    def step(self, batch) -> dict[str, float]:
        hu, tissue, scan = (part.to(self.device) for part in batch)
        for group in self.optimizer.param_groups:
            warm = min(1.0, (self.done + 1) / 50)
            group["lr"] = self.recipe.rate * warm * (0.01 + 0.99 * float(np.cos(np.pi / 2 * min(self.done / self.iterations, 1))) ** 2)
        with autocast(self.device):
            features = self.vgg(ct_windows(hu[:, None]).contiguous(memory_format=torch.channels_last), STYLE_LAYERS)
            scores = 0
            for head, layer in zip(reversed(self.tissues), reversed(STYLE_LAYERS), strict=True):
                found = head(features[layer])
                scores = found if layer == STYLE_LAYERS[-1] else found + F.interpolate(scores, scale_factor=2, mode="nearest")
        pooled = [part for f in features.values() for part in (f.float().mean((2, 3)), f.float().std((2, 3)))]
        which = self.scans(torch.cat(pooled, 1))
        entropy = F.cross_entropy(scores.float(), tissue)
        texture = F.cross_entropy(which, scan)
        self.optimizer.zero_grad(set_to_none=True)
        (entropy + self.recipe.texture * texture).backward()
        self.optimizer.step()
        self.done += 1
        right = (scores.argmax(1) == tissue).float().mean()
        return {"tissue": entropy.item(), "tissue_right": right.item(), "scan": texture.item(),
                "scan_right": (which.argmax(1) == scan).float().mean().item()}  # fmt: skip


def with_batch_norm(vgg: VGG19) -> VGG19:
    """``vgg`` with batch norm between each convolution and its ReLU, for training; :func:`folded` takes it out again."""
    layers = []
    for layer in vgg.features:
        layers += [layer, nn.BatchNorm2d(layer.out_channels)] if isinstance(layer, nn.Conv2d) else [layer]
    vgg.features = nn.Sequential(*layers)
    return vgg


def folded(trained: VGG19) -> VGG19:
    """The plain VGG-19 that computes what ``trained`` computes with the stored statistics of its batch norm."""
    plain = VGG19(trained.width, trained.inputs)
    convolutions = [layer for layer in plain.features if isinstance(layer, nn.Conv2d)]
    pairs = [(a, b) for a, b in zip(trained.features, trained.features[1:], strict=False) if isinstance(b, nn.BatchNorm2d)]
    with torch.no_grad():
        for into, (convolution, norm) in zip(convolutions, pairs, strict=True):
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            into.weight.copy_(convolution.weight * gain[:, None, None, None])
            into.bias.copy_((convolution.bias - norm.running_mean) * gain + norm.bias)
    return plain


@torch.no_grad()
def normalised(vgg: VGG19, hu: torch.Tensor) -> VGG19:
    """``vgg`` rescaled so that each filter's mean activation over crops ``hu`` (B, H, W) is 1, as Gatys et al. (2015) did.

    ReLUs commute with positive factors, so the features change by those factors alone. Filters that hardly ever fire stay as they are.
    """
    layers = tuple(range(1, 14))
    means = {layer: f.mean((0, 2, 3)) for layer, f in vgg(ct_windows(hu[:, None]), layers).items()}
    before = torch.ones(vgg.inputs)
    for layer, convolution in enumerate((c for c in vgg.features if isinstance(c, nn.Conv2d)), start=1):
        factor = torch.where(means[layer] > 1e-2, 1 / means[layer], torch.ones_like(means[layer]))
        convolution.weight *= factor[:, None, None, None] / before[None, :, None, None]
        convolution.bias *= factor
        before = factor
    return vgg


def train(data, out, *, recipe: StyleEncoderRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), on_log=print) -> int:  # fmt: skip
    """Train on every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    ``out`` gets checkpoints and ``log.jsonl``, prepared cases in ``cases/``, and in the end ``style_encoder.safetensors`` with its card.
    """
    recipe = recipe or StyleEncoderRecipe()
    device = ready(out, resume, device)
    cases = load_cases(data, Path(out) / "cases", leave_out=leave_out, report=lambda line: None)
    batches = CaseSlices(cases, recipe)
    last = iterations or recipe.iterations
    model = StyleEncoderModel(recipe, len(cases), last, device)
    done = run(model, batches, out, iterations=last, minutes=minutes, resume=resume, log_every=20, checkpoint_every=250, on_log=on_log)
    command = f"ctsynthesis train style_encoder --data DIR --iterations {done}"
    export(out, out, cases, recipe, version=str(done), description=f"{done} iterations on {len(cases)} cases.",
           training_data=[case.name for case in cases], command=command)  # fmt: skip
    return done


def export(out, folder, cases: list[Case], recipe: StyleEncoderRecipe, **card) -> ModelCard:
    """Write the latest checkpoint in ``out`` into ``folder`` as a model file: batch norm folded in, activations normalised."""
    trained = with_batch_norm(VGG19(recipe.width))
    trained.load_state_dict(weights_of(load_weights(out), "all.vgg"))
    batches = CaseSlices(cases, recipe)
    crops = torch.cat([batches(n)[0] for n in range(-(-NORM_EVERY // recipe.batch))])
    encoder = normalised(folded(trained.eval()), crops)
    return save_model(folder, encoder.state_dict(), name="style_encoder", title="Style encoder", kind="style_encoder",
                      network={"width": recipe.width, "recipe": asdict(recipe)}, hu_map={}, **card)  # fmt: skip
