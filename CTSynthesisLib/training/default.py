"""The recipe of the default model: ``ctsynthesis train default --data DIR -o DIR``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..errors import UnusableInput
from ..modelstore import ModelCard, load_card, save_model
from ..modelstore import load_weights as load_weights_of
from ..networks.slab_unet import SlabUNetConfig
from ..synthesis.hu_map import HUMap
from .kept import copied, weights_of
from .loop import load_weights, ready, run
from .slab_data import Sampling, SlabSampler, load_cases
from .slab_gan import SlabGAN, SlabGANConfig


@dataclass(frozen=True)
class DefaultRecipe:
    sampling: Sampling = field(default_factory=Sampling)
    gan: SlabGANConfig = field(default_factory=SlabGANConfig)
    hu_map: HUMap = field(default_factory=HUMap)
    batch: int = 2  # slabs
    seed: int = 0
    iterations: int = 6000


def train(data, out, *, recipe: DefaultRecipe | None = None, iterations=None, minutes=None, resume=False, device="auto",
          leave_out: tuple[str, ...] = (), threads: int | None = None, start: str | None = None, on_log=print) -> int:  # fmt: skip
    """Train the default model on every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    ``start`` names a model (or its file) whose generator the training begins with, its critic anew.
    Checkpoints and ``log.jsonl`` go to ``out``, prepared cases to ``out/cases``, and in the end the model file ``default.safetensors``
    with its card, for ``generate --model``. See :mod:`CTSynthesisLib.training.slab_data` for what a case is, and
    :func:`CTSynthesisLib.training.loop.run` for resuming.
    """
    recipe = recipe or DefaultRecipe()
    if threads:
        torch.set_num_threads(threads)
    device = ready(out, resume, device)
    torch.manual_seed(recipe.seed)
    cases = load_cases(data, Path(out) / "cases", leave_out=leave_out)
    batches = SlabSampler(cases, recipe.sampling, recipe.hu_map, batch=recipe.batch, seed=recipe.seed)
    model = SlabGAN(recipe.gan, device)
    if start and not resume:
        begin_with(model, load_card(start))
    done = run(model, batches, out, iterations=iterations or recipe.iterations, minutes=minutes, resume=resume, log_every=20,
               checkpoint_every=250, on_log=on_log)  # fmt: skip
    export(out, out, recipe=recipe, title="Trained on own data", version=str(done), description=f"{done} iterations on {len(cases)} cases.",
           training_data=[case.name for case in cases], command=f"ctsynthesis train default --data {data} --iterations {done}")  # fmt: skip
    return done


def begin_with(model: SlabGAN, card: ModelCard) -> None:
    """Give the generator the weights of ``card``; channels that an older model lacks begin at zero, new grain bands like its only one.

    Raises
    ------
    UnusableInput
        If the model is of another kind or width.
    """
    old = SlabUNetConfig(**{"grain_channels": 1, **card.network, "width": tuple(card.network.get("width", ()))})
    new = model.config.generator
    if card.kind != "slab_gan" or old.width != new.width or old.condition_channels > new.condition_channels:
        raise UnusableInput(f"A training of the default model cannot begin with '{card.name}': it is another kind of network.")
    weights = load_weights_of(card)
    stem = weights["stem.0.weight"]
    missing = stem.new_zeros(len(stem), new.condition_channels - old.condition_channels, *stem.shape[2:])
    weights["stem.0.weight"] = torch.cat([stem[:, : old.condition_channels], missing, stem[:, old.condition_channels :]], dim=1)
    for name in ("head.weight", "head.bias"):
        residual, *bands = weights[name].split(1)
        weights[name] = torch.cat([residual, *(bands if len(bands) == new.grain_channels else bands[:1] * new.grain_channels)])
    if old.grain_channels != new.grain_channels:
        weights["head.bias"][1:] -= 1.0  # together they add as much as the one did
    model.generator.load_state_dict({**model.generator.state_dict(), **weights})
    model.averaged = copied(model.generator)


# 91 pixels of SlabUNet and one of the condition's border plane; Testing proves both by perturbation.
RECEPTIVE_FIELD = {"pixels": 92, "slices": 4}


def export(out, folder, *, name: str = "default", recipe: DefaultRecipe | None = None, **card) -> ModelCard:
    """Write the averaged generator of the latest checkpoint in ``out`` as a model file with its card into ``folder``."""
    recipe = recipe or DefaultRecipe()
    weights = weights_of(load_weights(out), "averaged")
    network = asdict(recipe.gan.generator)
    return save_model(folder, weights, name=name, kind="slab_gan", network=network, hu_map=asdict(recipe.hu_map),
                      receptive_field=RECEPTIVE_FIELD, **card)  # fmt: skip
