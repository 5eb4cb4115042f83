"""The rows of the evaluation: the model, and what needs no network at all but has to be beaten. Each draws int16 HU on a case's grid."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..anatomy import Tissue, structure, understand
from ..errors import UnusableInput
from ..modelstore import load_card
from ..synthesis.outline import OUTLINES, derive_outline
from ..synthesis.request import FILLED, Request
from ..volume import AIR_HU, LabelMap
from .cases import Case
from .conditions import BODY

MODES = ("given", "blind")
FEWEST = 20  # voxels of a structure whose mean and spread are taken from the scan


@dataclass(frozen=True, eq=False)
class Task:
    """One volume to draw: a case, what is told of it, and how.

    ``mode`` is ``given`` (the request carries the real scan's HU, noise, kernel and thickness) or ``blind`` (only the contrast phase).
    """

    case: Case
    condition: str
    mode: str
    labelmap: LabelMap
    request: Request

    @cached_property
    def outlined(self) -> LabelMap:
        """The label map with the outline that the engine would derive where there is none; for methods that cannot do it themselves."""
        understood = understand(self.labelmap.segments)
        if any(u.structure.name in OUTLINES for u in understood):
            return self.labelmap
        outline, _ = derive_outline(self.labelmap, understood, seed=self.request.seed)
        value = max(s.value for s in self.labelmap.segments) + 1
        array = np.where(self.labelmap.array > 0, self.labelmap.array, np.where(outline, np.uint16(value), np.uint16(0)))
        return LabelMap(array, self.labelmap.geometry, (*self.labelmap.segments, replace(BODY, value=value)))

    @property
    def told(self) -> set[str]:
        """The names of the structures that the label map holds."""
        present = set(np.unique(self.labelmap.array).tolist())
        return {s.name for s in self.labelmap.segments if s.value in present}

    def mean_and_spread(self) -> dict[int, tuple[float, float]]:
        """By label value: from the real scan when it is given, else from the anatomy table.

        Where the body is not specified further, the spread is that of its soft tissue: that of everything in it would drown all else.
        """
        found = {}
        soft = structure("soft_tissue")
        for u in understand(self.outlined.segments, phase=self.request.phase):
            whole = u.structure.tissue is Tissue.BODY
            inside = self.case.ct.array[(self.outlined.array == u.segment.value) & self.case.body] if self.mode == "given" else ()
            if len(inside) < FEWEST:
                found[u.segment.value] = u.mean_hu, soft.sd(self.request.phase) if whole else u.sd_hu
                continue
            grain = self.case.ct.array[self.case.region("soft_tissue")] if whole else inside
            found[u.segment.value] = float(inside.mean()), float(grain.std()) if len(grain) >= FEWEST else soft.sd()
        return found


@dataclass(frozen=True, eq=False)
class Drawn:
    """A drawn volume: int16 ``hu`` (k, j, i), and for the model what it cost."""

    hu: np.ndarray
    seconds: float | None = None
    peak_mb: float | None = None  # beyond what the process held before


def request_for(case: Case, labelmap: LabelMap, mode: str, *, model: str, seed: int, device: str) -> Request:
    """The request of a ``mode``, see :class:`Task`."""
    request = Request(model=model, seed=seed, phase=case.phase, device=device)
    if mode == "blind":
        return request
    from ..synthesis.match import match

    return match(labelmap, case.ct, request, regions=case.regions)[0]


# ------------------------------------------------------------------------------------------------------------------------ the rows


def model(task: Task) -> Drawn:
    """The model under test."""
    from ..synthesis.generate import generate

    with _PeakMemory() as memory:
        result = generate(task.labelmap, task.request)
    return Drawn(result.volume.array, result.seconds, memory.peak_mb)


def per_slice(task: Task) -> Drawn:
    """The same network, slice by slice: no neighbours to look at, and grain that no slice shares with another.

    What is filled in where the mask says nothing is the same as for the model.
    """
    from ..synthesis import mask_cgan
    from ..synthesis.generate import condition_of

    card = load_card(task.request.model)
    if card.kind != "slab_gan":
        raise UnusableInput(f"The model '{card.name}' sees one slice at a time as it is.")
    labels, request, geometry = task.outlined, task.request, task.labelmap.geometry
    present = set(np.unique(labels.array).tolist())
    understood = understand(labels.segments, phase=request.phase, hu=request.hu, elsewhere=FILLED)
    condition, _ = condition_of(labels.array, [u for u in understood if u.segment.value in present], geometry, request)
    engine, (first, *rest) = mask_cgan.load(card, request.device), geometry.lattice_origin()
    slices = (engine.generate(replace(condition, values=condition.values[k : k + 1]), (first + k, *rest), seed=_own_seed(request.seed, k))
              for k in range(geometry.shape[0]))  # fmt: skip
    return Drawn(np.concatenate(list(slices)))


def mean(task: Task) -> Drawn:
    """Each structure filled with its mean."""
    table = np.full(int(task.outlined.array.max()) + 1, float(AIR_HU), np.float32)
    for value, (centre, _) in task.mean_and_spread().items():
        if value < len(table):
            table[value] = centre
    return Drawn(np.rint(table[task.outlined.array]).astype(np.int16))


def white(task: Task) -> Drawn:
    """Each structure's mean, and white noise of its spread."""
    grain = np.random.default_rng(task.request.seed).standard_normal(task.outlined.array.shape, dtype=np.float32)
    return Drawn(_with_grain(task, grain))


def spectrum(task: Task) -> Drawn:
    """Each structure's mean, and noise of its spread whose radial spectrum in-plane is that of the scan's even soft tissue.

    A blind method does not know the scan: it takes the grain that the engine itself starts from.
    """
    shape = task.outlined.array.shape
    if task.mode == "blind":
        from ..synthesis.noise import lattice_noise

        grain = lattice_noise(task.request.seed, (0, 0, 0), shape)[0].numpy()
    else:
        from .texture import noise_spectrum

        real = noise_spectrum(task.case.ct.array, task.case.even, task.case.spacing)
        grain = _coloured(shape, *real, task.case.spacing, task.request.seed)
    return Drawn(_with_grain(task, grain))


METHODS: dict[str, Callable[[Task], Drawn]] = {f.__name__: f for f in (model, per_slice, spectrum, white, mean)}


def _own_seed(seed, k):
    return (seed * 0x9E3779B1 + (k + 1) * 0x85EBCA6B) & 0x7FFFFFFF


def _with_grain(task, grain):
    labels = task.outlined.array
    centre, spread = (np.zeros(int(labels.max()) + 1, np.float32) for _ in range(2))
    centre[0] = AIR_HU
    for value, pair in task.mean_and_spread().items():
        if value < len(centre):
            centre[value], spread[value] = pair
    return np.rint(np.clip(centre[labels] + spread[labels] * grain, -1024, 3071)).astype(np.int16)


def _coloured(shape, frequency, power, spacing, seed):
    """Unit-variance noise (k, j, i) whose slices have the radial spectrum ``power`` (HU² mm²) at ``frequency`` (1/mm)."""
    usable = np.isfinite(power) & (power > 0)
    if not usable.any():
        frequency, power, usable = np.array([0.0]), np.array([1.0]), np.array([True])
    rows, columns = (np.fft.fftfreq(n, s) for n, s in ((shape[1], spacing[1]), (shape[2], spacing[0])))
    radius = np.hypot(rows[:, None], columns[: shape[2] // 2 + 1])
    gain = np.sqrt(np.interp(radius, frequency[usable], power[usable])).astype(np.float32)
    gain[0, 0] = 0  # the mean of a slice stays
    random = np.random.default_rng(seed)
    result = np.empty(shape, np.float32)
    for k in range(shape[0]):
        slice_ = np.fft.rfft2(random.standard_normal(shape[1:], dtype=np.float32))
        result[k] = np.fft.irfft2(slice_ * gain, s=shape[1:])
    return result / result.std()


class _PeakMemory:
    """Largest resident memory within a block beyond that at its start, in MB, looked at fifty times a second; None where unknown."""

    def __enter__(self):
        self._start, self._peak = self._now(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float | None:
        return None if self._start is None else max(self._peak - self._start, 0) / 2**20

    def _watch(self):
        while not self._stop.is_set():
            self._peak = max(self._peak, self._now() or 0)
            time.sleep(0.02)

    @staticmethod
    def _now() -> int | None:
        try:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        except OSError:  # not Linux
            pass
        return None


def borders_of(card, geometry) -> dict[int, list[int]]:
    """Where the blocks of a model's engine meet on ``geometry``: by array axis, positions p between voxels p - 1 and p."""
    from ..networks.slab_unet import SlabUNetConfig
    from ..synthesis.blocks import blocks

    if card.kind != "slab_gan":
        raise UnusableInput(f"The engine '{card.kind}' sees whole slices and has no blocks.")
    stride = SlabUNetConfig(**card.settings).stride
    field = card.receptive_field
    found = list(blocks(geometry.shape, geometry.lattice_origin(), stride=stride, margin=(field["slices"], field["pixels"])))
    return {axis: sorted({b.inner[axis][0] for b in found} - {0}) for axis in range(3)}
