"""The recipe of the nodule classifier: ``ctsynthesis train nodule-classifier --data DIR -o DIR``.

3D-SqueezeNet on volumes in [0, 1], binary cross-entropy, Adam at 1e-4 with betas 0.9 and 0.999 (paper 004, section 4.2). The paper gives
neither batch nor iterations. DIR is laid out as :mod:`CTSynthesisLib.training.nodule_scans` says: real scans, or synthetic volumes, which
count as free of nodules and get theirs from the injector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ..errors import UnusableInput
from ..files.beside import written_beside
from ..modelstore import ModelCard, load_card, save_model
from ..modelstore import load_weights as load_weights_of
from ..networks.squeezenet3d import SMALLEST, SqueezeNet3D, SqueezeNet3DConfig
from ..synthesis.nodule_shape import SOLID_HU
from .loop import load_weights, ready, refuse_to_overwrite, run
from .nodule_hands import networks
from .nodule_samples import HU_RANGE, MADE, Sampling, cut, load_chests, plan
from .nodule_scans import find_scans

SIZES_MM = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0)  # paper 004 compares six sizes and names two of them, 14 and 16
BEST = "best.safetensors"
KIND = "nodule_classifier"


@dataclass(frozen=True)
class NoduleClassifierRecipe:
    network: SqueezeNet3DConfig = field(default_factory=SqueezeNet3DConfig)
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 400
    batch: int = 16
    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    density: tuple[float, float] = (1.0, 1.0)  # air's contrast to soft tissue is multiplied by a number between these; the paper's: none
    noise: float = 0.0  # HU, added with a spread of up to so much; the paper's: none
    seed: int = 0
    iterations: int = 400


class Samples:
    """``samples(n)`` is batch n, a function of n alone: volumes (B, 1, D, H, W) in [0, 1] and labels (B,), mirrored at random.

    ``voxels`` is int16 HU (N, D, H, W) and may lie on disk; half of each batch has label 1, half 0. What has another label is passed over.
    """

    def __init__(self, voxels: np.ndarray, labels, recipe: NoduleClassifierRecipe):
        labels = np.asarray(labels)
        self.voxels, self.batch, self.seed, self.recipe = voxels, recipe.batch, recipe.seed, recipe
        self.of_label = [np.flatnonzero(labels == label) for label in (0, 1)]
        if not all(map(len, self.of_label)):
            raise UnusableInput("A classifier needs samples with and without nodules; give more scans, or ask for more samples.")

    def __call__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, n))
        labels = np.arange(self.batch) % 2
        rows = [self.of_label[label][rng.integers(len(self.of_label[label]))] for label in labels]
        volumes = to_unit(np.stack([self._varied(self.voxels[row], rng) for row in rows]))
        for one in volumes:
            for axis in range(3):
                if rng.random() < 0.5:
                    one.copy_(one.flip(axis + 1))
        return volumes, torch.from_numpy(labels.astype(np.float32))

    def _varied(self, hu, rng):
        """As lungs of other persons and scanners would look: denser or thinner about soft tissue, and noisier."""
        if self.recipe.density != (1.0, 1.0):
            hu = SOLID_HU + rng.uniform(*self.recipe.density) * (hu - SOLID_HU)
        if self.recipe.noise:
            hu = hu + rng.uniform(0, self.recipe.noise) * rng.standard_normal(hu.shape)
        return hu


def to_unit(hu: np.ndarray) -> torch.Tensor:
    """HU (B, D, H, W) as (B, 1, D, H, W) in [0, 1]: -1000 and below become 0, 400 and above 1."""
    low, high = HU_RANGE
    return ((torch.from_numpy(hu.astype(np.float32)) - low) / (high - low)).clamp(0, 1)[:, None]


class Classifier:
    """The network and its optimizer, for :func:`CTSynthesisLib.training.loop.run`."""

    def __init__(self, recipe: NoduleClassifierRecipe, device: str = "cpu", weights: dict | None = None):
        torch.manual_seed(recipe.seed)
        self.device = device
        self.network = SqueezeNet3D(recipe.network).to(device, memory_format=torch.channels_last_3d)
        if weights is not None:
            self.network.load_state_dict({**self.network.state_dict(), **weights})
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=recipe.rate, betas=recipe.betas)

    def step(self, batch) -> dict[str, float]:
        volumes, labels = (part.to(self.device) for part in batch)
        self.network.train()
        logits = self.network(volumes.contiguous(memory_format=torch.channels_last_3d))  # in bfloat16 gradients cease to be finite
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "right": ((logits > 0) == (labels > 0.5)).float().mean().item()}

    def state(self):
        return dict(self.network.state_dict()), {"optimizer": self.optimizer.state_dict()}

    def load_state(self, weights, rest):
        self.network.load_state_dict(weights)
        self.optimizer.load_state_dict(rest["optimizer"])


@torch.inference_mode()
def probabilities(network: SqueezeNet3D, voxels: np.ndarray, batch: int = 16) -> np.ndarray:
    """The probability (N,) that there is a nodule in each of the samples ``voxels``, int16 HU (N, D, H, W)."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network(to_unit(np.asarray(voxels[n : n + batch])).to(device)).sigmoid().cpu() for n in range(0, len(voxels), batch)]
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def fit(voxels, labels, out: Path, recipe: NoduleClassifierRecipe, *, iterations: int, minutes=None, resume=False, device="cpu",
        start: dict | None = None, validation=None, on_log: Callable | None = None) -> tuple[SqueezeNet3D, int]:  # fmt: skip
    """Train on ``voxels`` and ``labels``; returns the network and the iterations made.

    ``start`` are weights to begin with. With ``validation`` (voxels and labels of other persons) the weights of the least validation loss,
    looked at every 20 iterations, are taken; without, the last ones.
    """
    model, least = Classifier(recipe, device, start), [np.inf]
    if not resume:
        refuse_to_overwrite(out)
        (out / BEST).unlink(missing_ok=True)  # of a training that left no checkpoint
    if resume and validation and (out / BEST).exists():
        least[0] = _loss(_network(recipe, load_file(out / BEST), device), *validation)

    def logged(iteration, figures):
        if validation:
            loss = _loss(model.network, *validation)
            figures = figures | {"validation": loss}
            if loss < least[0]:
                least[0] = loss
                weights = {n: tensor.cpu().clone(memory_format=torch.contiguous_format) for n, tensor in model.state()[0].items()}
                with written_beside(out / BEST) as part:
                    save_file(weights, part)
        if on_log:
            on_log(iteration, figures)

    batches = Samples(voxels, labels, recipe)
    done = run(model, batches, out, iterations=iterations, minutes=minutes, resume=resume, log_every=20, checkpoint_every=500,
               on_log=logged)  # fmt: skip
    return _network(recipe, trained_weights(out), device), done


def trained_weights(out: Path) -> dict[str, torch.Tensor]:
    """What :func:`fit` found in ``out``: the best weights where there was a validation, else the last."""
    return load_file(out / BEST) if (out / BEST).exists() else load_weights(out)


def _network(recipe, weights, device) -> SqueezeNet3D:
    network = SqueezeNet3D(recipe.network)
    network.load_state_dict(weights)
    return network.to(device).eval()


def _loss(network, voxels, labels) -> float:
    usable, labels = np.asarray(labels) >= 0, np.asarray(labels)
    found = np.clip(probabilities(network, voxels)[usable], 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(labels[usable] == 1, np.log(found), np.log(1 - found))))


def train(data, out, *, recipe: NoduleClassifierRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), start: str | None = None, on_log=print, report=print) -> int:  # fmt: skip
    """Train on every scan under ``data`` except those of the persons ``leave_out``; returns the iterations made.

    ``out`` gets the lungs and samples that were cut, checkpoints, ``log.jsonl`` and in the end ``nodule-classifier.safetensors`` with its
    card. ``start`` names a trained classifier to begin with, for fine-tuning.

    Raises
    ------
    UnusableInput
        If there are no scans with lungs, or ``start`` is something else.
    """
    recipe, out = recipe or NoduleClassifierRecipe(), Path(out)
    if recipe.sampling.voxels < SMALLEST:
        raise UnusableInput(f"Samples of {recipe.sampling.voxels} voxels a side are too small for the network; take at least {SMALLEST}.")
    device = ready(out, resume, device)
    weights = None
    if start:
        card = load_card(start)
        if card.kind != KIND:
            raise UnusableInput(f"A nodule classifier cannot begin with '{card.name}': it is another kind of network.")
        weights = load_weights_of(card)
    scans = [scan for scan in find_scans(data, report) if not {scan.name, scan.person} & set(leave_out)]
    chests = load_chests(scans, out / "lungs", report)
    samples = plan(chests, recipe.samples, recipe.sampling, diameters=SIZES_MM, seed=recipe.seed)
    hands = networks()
    voxels, labels = cut(samples, chests, recipe.sampling, out / "samples.npy", inject=hands.inject, erase=hands.erase,
                         made_by=hands.name, report=report)  # fmt: skip
    counts = ", ".join(f"{sum(s.made == made for s in samples)} {made}" for made in MADE)
    report(f"{len(samples)} samples from {len(chests)} scans: {counts}")
    network, done = fit(voxels, labels, out, recipe, iterations=iterations or recipe.iterations, minutes=minutes,
                        resume=resume, device=device, start=weights, on_log=on_log)  # fmt: skip
    export(network, out, recipe, version=str(done), training_data=sorted({chest.scan.person for chest in chests}),
           description=f"{done} iterations on {len(samples)} samples: {counts}; injected and erased by: {hands.name}.",
           command=f"ctsynthesis train nodule-classifier --data DIR --iterations {done}")  # fmt: skip
    return done


def export(network: SqueezeNet3D, folder, recipe: NoduleClassifierRecipe, **card) -> ModelCard:
    """Write ``network`` as a model file with its card into ``folder``."""
    return save_model(folder, network.state_dict(), name="nodule-classifier", title="Nodule classifier", kind=KIND,
                      network=asdict(recipe.network) | {"sampling": asdict(recipe.sampling)}, hu_map={"unit_range_hu": HU_RANGE},
                      **card)  # fmt: skip
