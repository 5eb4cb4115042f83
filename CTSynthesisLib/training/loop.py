"""The training loop. It knows no model: it asks for batches, lets the model step, logs, checkpoints and resumes.

A model knows no loop. It is any object with the three methods of :class:`Model`, its ``step`` written as the paper writes it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from ..errors import SynthesisFailed, UnusableInput
from ..files.beside import written_beside

LOG = "log.jsonl"


class Model(Protocol):
    """What the loop trains."""

    def step(self, batch: Any) -> dict[str, float]:
        """One update of all parameters from one batch; returns the losses (and other figures) worth a curve."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """``(weights, rest)``: every parameter and buffer by name, and what else is needed to go on (optimizer states).

        ``rest`` may hold numbers, strings, tensors, lists and dictionaries of them, and nothing else.
        """

    def load_state(self, weights: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
        """Take both back, so that the next ``step`` gives what it would have given without the interruption."""


def run(
    model: Model,
    batches: Callable[[int], Any],
    out: str | Path,
    *,
    iterations: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    log_every: int = 1,
    checkpoint_every: int = 1000,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
) -> int:
    """Train until ``iterations`` steps have been made in all, or ``minutes`` have passed in this call, whichever comes first.

    Parameters
    ----------
    batches : callable
        ``batches(n)`` is the batch of step n = 0, 1, …; a function of n alone, so that a resumed training sees the batches it would
        have seen. It is called one step ahead, in a second thread.
    out : path
        Folder for ``log.jsonl`` (one line each ``log_every`` steps: iteration, seconds, mean of every figure since the last line) and
        ``checkpoint-N/`` (``weights.safetensors``, ``rest.pt``, ``progress.json``; only the latest is kept).
    resume : bool
        Go on from the checkpoint in ``out``. Without it, a folder that already holds a training is refused.
    on_log : callable
        ``on_log(iteration, figures)`` after each line of the log, for progress and pictures.

    Returns
    -------
    int
        Steps made in all, those before a resumption included.

    Raises
    ------
    UnusableInput
        If there is nothing to resume, or ``out`` holds a training that would be overwritten.
    SynthesisFailed
        If a loss is no longer finite; the last checkpoint stays.
    """
    if iterations is None and minutes is None:
        raise UnusableInput("Say how long to train: a number of iterations, a number of minutes, or both.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done, seconds = _begin(model, out, resume)
    started = time.monotonic() - seconds
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    last = math.inf if iterations is None else iterations
    sums: dict[str, float] = {}
    steps = 0  # since the last line of the log
    saved = done if resume else -1
    with ThreadPoolExecutor(1) as ahead, open(out / LOG, "a", encoding="utf-8") as log:
        upcoming = ahead.submit(batches, done) if done < last else None
        while done < last and time.monotonic() < deadline:
            batch = upcoming.result()
            if done + 1 < last:
                upcoming = ahead.submit(batches, done + 1)
            for name, value in model.step(batch).items():
                if not math.isfinite(value):
                    raise SynthesisFailed(f"Training stopped at iteration {done}: {name} is no longer finite; lower the learning rate.")
                sums[name] = sums.get(name, 0.0) + value
            done += 1
            steps += 1
            if done % log_every == 0:
                figures = {name: value / steps for name, value in sums.items()}
                sums, steps = {}, 0
                print(json.dumps({"iteration": done, "seconds": round(time.monotonic() - started, 2), **figures}), file=log, flush=True)
                if on_log:
                    on_log(done, figures)
            if done % checkpoint_every == 0:
                save_checkpoint(model, out, done, time.monotonic() - started)
                saved = done
    if saved != done:
        save_checkpoint(model, out, done, time.monotonic() - started)
    return done


def read_log(out: str | Path) -> dict[str, list[float]]:
    """The columns of ``out/log.jsonl``: ``iteration``, ``seconds`` and every figure."""
    lines = [json.loads(line) for line in (Path(out) / LOG).read_text(encoding="utf-8").splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]} if lines else {"iteration": [], "seconds": []}


def save_checkpoint(model: Model, out: Path, done: int, seconds: float) -> Path:
    """Write ``checkpoint-<done>``, then remove older ones: there is always a whole one."""
    weights, rest = model.state()
    # cloned, because safetensors refuses tensors that share memory or lie channels-last
    weights = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    target = out / f"checkpoint-{done:07d}"
    with written_beside(target) as part:
        part.mkdir()
        save_file(weights, part / "weights.safetensors")
        torch.save({"rest": rest, "rng": torch.get_rng_state()}, part / "rest.pt")
        (part / "progress.json").write_text(json.dumps({"iteration": done, "seconds": seconds}), encoding="utf-8")
    for old in _checkpoints(out)[:-1]:
        shutil.rmtree(old)
    return target


def load_weights(out: str | Path) -> dict[str, torch.Tensor]:
    """The weights of the latest checkpoint in ``out``."""
    checkpoints = _checkpoints(Path(out))
    if not checkpoints:
        raise UnusableInput(f"{out} holds no checkpoint; train into this folder first.")
    return load_file(checkpoints[-1] / "weights.safetensors")


def refuse_to_overwrite(out: str | Path) -> None:
    """Raise UnusableInput if ``out`` already holds a training."""
    if _checkpoints(Path(out)) or (Path(out) / LOG).exists():
        raise UnusableInput(f"{out} already holds a training; resume it, or choose another folder.")


def _checkpoints(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))


def _begin(model: Model, out: Path, resume: bool) -> tuple[int, float]:
    """Iterations and seconds already spent; with ``resume``, the model's state and the log as they were then."""
    if not resume:
        refuse_to_overwrite(out)
        return 0, 0.0
    weights = load_weights(out)
    latest = _checkpoints(out)[-1]
    kept = torch.load(latest / "rest.pt", weights_only=True, map_location="cpu")
    model.load_state(weights, kept["rest"])
    torch.set_rng_state(kept["rng"])
    progress = json.loads((latest / "progress.json").read_text(encoding="utf-8"))
    lines = (out / LOG).read_text(encoding="utf-8").splitlines() if (out / LOG).exists() else []
    lines = [line for line in lines if json.loads(line)["iteration"] <= progress["iteration"]]  # later ones will be written again
    with written_beside(out / LOG) as part:
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return progress["iteration"], progress["seconds"]
