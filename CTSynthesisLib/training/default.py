"""The recipe of the default model: ``ctsynthesis train default --data DIR -o DIR``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..modelstore import ModelCard, save_model
from ..synthesis.hu_map import HUMap
from .loop import load_weights, run
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
          leave_out: tuple[str, ...] = (), threads: int | None = None, on_log=print) -> int:  # fmt: skip
    """Train the default model on every case under ``data`` except those named in ``leave_out``; returns the iterations made.

    Checkpoints and ``log.jsonl`` go to ``out``, prepared cases to ``out/cases``, and in the end the model file ``default.safetensors``
    with its card, for ``generate --model``. See :mod:`CTSynthesisLib.training.slab_data` for what a case is, and
    :func:`CTSynthesisLib.training.loop.run` for resuming.
    """
    recipe = recipe or DefaultRecipe()
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    cases = load_cases(data, Path(out) / "cases", leave_out=leave_out)
    batches = SlabSampler(cases, recipe.sampling, recipe.hu_map, batch=recipe.batch, seed=recipe.seed)
    model = SlabGAN(recipe.gan, device)
    done = run(model, batches, out, iterations=iterations or recipe.iterations, minutes=minutes, resume=resume, log_every=20,
               checkpoint_every=250, on_log=on_log)  # fmt: skip
    export(out, out, recipe=recipe, title="Trained on own data", version=str(done), description=f"{done} iterations on {len(cases)} cases.",
           training_data=[case.name for case in cases], command=f"ctsynthesis train default --data {data} --iterations {done}")  # fmt: skip
    return done


# 91 pixels of SlabUNet and one of the condition's border plane; Testing proves both by perturbation.
RECEPTIVE_FIELD = {"pixels": 92, "slices": 4}


def export(out, folder, *, name: str = "default", recipe: DefaultRecipe | None = None, **card) -> ModelCard:
    """Write the averaged generator of the latest checkpoint in ``out`` as a model file with its card into ``folder``."""
    recipe = recipe or DefaultRecipe()
    weights = {n.removeprefix("averaged."): w for n, w in load_weights(out).items() if n.startswith("averaged.")}
    network = asdict(recipe.gan.generator)
    return save_model(folder, weights, name=name, kind="slab_gan", network=network, hu_map=asdict(recipe.hu_map),
                      receptive_field=RECEPTIVE_FIELD, **card)  # fmt: skip
