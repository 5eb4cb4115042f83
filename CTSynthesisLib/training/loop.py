"""The training loop. It knows no model: it asks for batches, lets the model step, logs, checkpoints and resumes.

A model knows no loop. It is any object with the three methods of :class:`Model`, its ``step`` written as the paper writes it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..errors import Assumption, Interrupted, SynthesisFailed, UnusableInput
from ..files.beside import written_beside
from ..synthesis.mask_cgan import choose_device
from .interruption import postponed

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


def training_device(device: str, *, mps: bool = False) -> str:
    """The device to train on, or SynthesisFailed; ``auto`` takes an Apple GPU only with ``mps``: not every recipe was written for it."""
    chosen = choose_device(device)
    return "cpu" if (device, chosen, mps) == ("auto", "mps", False) else chosen


def ready(out: str | Path, resume: bool, device: str, *, mps: bool = False) -> str:
    """:func:`training_device`; refuses here, before any data are prepared, what :func:`run` would refuse after.

    Raises
    ------
    UnusableInput
        If there is nothing to resume, or ``out`` holds a training that would be overwritten.
    SynthesisFailed
        If the device is not there.
    """
    if resume:
        _latest(Path(out))
    else:
        refuse_to_overwrite(out)
    return training_device(device, mps=mps)


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
    Interrupted
        At SIGINT or SIGTERM, after the iteration that was being made; it is kept, and ``resume`` goes on from there.
    """
    if iterations is None and minutes is None:
        raise UnusableInput("Say how long to train: a number of iterations, a number of minutes, or both.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    begun = _begin(model, out, resume)
    done, sums, steps = begun["iteration"], begun["sums"], begun["steps"]  # sums of the steps since the last line of the log
    started = time.monotonic() - begun["seconds"]
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    last = math.inf if iterations is None else iterations
    saved = done if resume else -1

    def save():
        save_checkpoint(model, out, {"iteration": done, "seconds": time.monotonic() - started, "sums": sums, "steps": steps})

    with postponed() as signals:
        with ThreadPoolExecutor(1) as ahead, open(out / LOG, "a", encoding="utf-8") as log:
            upcoming = ahead.submit(batches, done) if done < last else None
            while done < last and time.monotonic() < deadline and not signals:
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
                    line = {"iteration": done, "seconds": round(time.monotonic() - started, 2), **figures}
                    print(json.dumps(line), file=log, flush=True)
                    if on_log:
                        on_log(done, figures)
                if done % checkpoint_every == 0:
                    save()
                    saved = done
        if saved != done:
            save()
    if signals:
        raise Interrupted(f"The training was interrupted; {out} keeps iteration {done}, from where it can be resumed.", signals[0])
    return done


def read_log(out: str | Path) -> dict[str, list[float]]:
    """The columns of ``out/log.jsonl``: ``iteration``, ``seconds`` and every figure."""
    lines = [json.loads(line) for line in (Path(out) / LOG).read_text(encoding="utf-8").splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]} if lines else {"iteration": [], "seconds": []}


def save_checkpoint(model: Model, out: Path, progress: dict[str, Any]) -> Path:
    """Write ``checkpoint-<iteration>``, then remove older ones: there is always a whole one."""
    weights, rest = model.state()
    # cloned, because safetensors refuses tensors that share memory or lie channels-last
    weights = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    target = out / f"checkpoint-{progress['iteration']:07d}"
    with written_beside(target) as part:
        part.mkdir()
        save_file(weights, part / "weights.safetensors")
        torch.save({"rest": rest, "rng": torch.get_rng_state()}, part / "rest.pt")
        (part / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    for old in _checkpoints(out):
        if _number(old) < progress["iteration"]:
            shutil.rmtree(old)
    return target


def load_weights(out: str | Path) -> dict[str, torch.Tensor]:
    """The weights of the latest checkpoint in ``out``."""
    return load_file(_latest(Path(out)) / "weights.safetensors")


def kept_iteration(out: str | Path) -> int | None:
    """The iteration from which a training in ``out`` would go on; None without a whole checkpoint."""
    whole = [path for path in _checkpoints(Path(out)) if _is_whole(path)]
    return _number(whole[-1]) if whole else None


def refuse_to_overwrite(out: str | Path) -> None:
    """Raise UnusableInput if ``out`` holds a training that can be resumed."""
    if kept_iteration(out) is not None:
        raise UnusableInput(f"{out} already holds a training; go on with it (--resume), or choose another folder.")


def _checkpoints(out: Path) -> list[Path]:
    return sorted((path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)), key=_number)


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _latest(out: Path) -> Path:
    """The latest whole checkpoint in ``out``."""
    if (kept := kept_iteration(out)) is None:
        raise UnusableInput(f"{out} holds no checkpoint to go on from; begin a training there (without --resume).")
    return next(path for path in _checkpoints(out) if _number(path) == kept)


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files of ``checkpoint`` are there from beginning to end, as a disk that is full or a copy broken off leaves them not."""
    try:
        with safe_open(checkpoint / "weights.safetensors", "pt"), zipfile.ZipFile(checkpoint / "rest.pt"):
            return "iteration" in json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False


def _begin(model: Model, out: Path, resume: bool) -> dict[str, Any]:
    """What ``progress.json`` holds of what is done already; with ``resume``, the model's state and the log as they were then."""
    if not resume:
        refuse_to_overwrite(out)
    for path in _checkpoints(out):
        if not _is_whole(path):  # out of the way, where it cannot be taken for the latest
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            warnings.warn(f"The checkpoint {path} is not whole; it is now {aside.name}, and no training goes on from it.", Assumption, 2)
    for part in out.glob(".checkpoint-*.part"):  # of a process that was killed
        shutil.rmtree(part, ignore_errors=True)
    if not resume:
        if (out / LOG).exists():
            warnings.warn(f"{out} held a training without a checkpoint; it begins anew.", Assumption, 2)
            (out / LOG).unlink()
        return {"iteration": 0, "seconds": 0.0, "sums": {}, "steps": 0}
    latest = _latest(out)
    try:
        kept = torch.load(latest / "rest.pt", weights_only=True, map_location="cpu")
        model.load_state(load_file(latest / "weights.safetensors"), kept["rest"])
    except (KeyError, RuntimeError, ValueError, UnpicklingError) as error:
        raise UnusableInput(f"{out} holds another kind of training, or another version's; choose another folder.") from error
    torch.set_rng_state(kept["rng"])
    progress = {"sums": {}, "steps": 0, **json.loads((latest / "progress.json").read_text(encoding="utf-8"))}
    lines = (out / LOG).read_text(encoding="utf-8").splitlines() if (out / LOG).exists() else []
    with written_beside(out / LOG) as part:
        part.write_text("".join(line + "\n" for line in lines if _is_before(line, progress["iteration"])), encoding="utf-8")
    return progress


def _is_before(line: str, iteration: int) -> bool:
    """Whether a line of the log is whole and not after ``iteration``: later ones will be written again."""
    try:
        return json.loads(line)["iteration"] <= iteration
    except ValueError:
        return False
