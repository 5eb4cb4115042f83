"""Whole chest volumes from nothing: one door for the three presets of ``ctsynthesis volume``.

``anatomy`` (the default) draws a label map from CT-SGAN's recurrent latent and lets the default model render it; ``ctsgan2021`` and
``gan3d`` draw voxels. A volume depends on its own seed alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from .. import __version__
from ..errors import UnusableInput
from ..modelstore import FROM_NOTHING, ModelCard, load_card
from ..volume import AIR_HU, Geometry, LabelMap, Volume
from .request import DEVICES, Request

PRESETS = FROM_NOTHING
EXTENT_MM = (288.0, 432.0, 432.0)  # (k, j, i)
SIZES = (64, 1024)
MOST_NODULES = 50
MARGIN = 12  # voxels of air around the body that the renderer sees
# what scans differ in, beside anatomy: image noise in HU (log-normal; eight chests measured 7 to 39, their geometric mean is 12.9), kernel,
# how much slices share (their grain 2 to 2.5 mm apart correlates by 0.45 to 0.69; drawn slices are nearer), how aerated the lungs are
NOISE_HU, NOISE_SPREAD, SHARPNESS, SHARED, LUNG_HU = 13.0, 0.4, (0.25, 0.7), (0.7, 0.85), (-870.0, -790.0)
PHASES = (("plain", 0.6), ("portal", 0.25), ("arterial", 0.15))


@dataclass(frozen=True)
class VolumeRequest:
    """What the volumes of a cohort have in common.

    Attributes
    ----------
    preset : str
        Name of a model of one of FROM_NOTHING, or the path of its file.
    seed : int
        Of the cohort; volume k has a seed of its own, :func:`seed_of`.
    size : int or None
        Voxels along each side; None for the preset's (224). The ``anatomy`` preset draws any size.
    nodules : int
        Lung nodules a volume; only ``anatomy`` knows them.
    renderer : str
        The model that renders ``anatomy``'s label maps.
    device : str
        Where the networks run.
    """

    preset: str = "anatomy"
    seed: int = 0
    size: int | None = None
    nodules: int = 0
    renderer: str = "default"
    device: str = "auto"

    def __post_init__(self):
        if self.size is not None and not SIZES[0] <= self.size <= SIZES[1]:
            raise UnusableInput(f"A size of {self.size} voxels is outside the usable range; give {SIZES[0]} to {SIZES[1]}.")
        if not 0 <= self.nodules <= MOST_NODULES:
            raise UnusableInput(f"{self.nodules} nodules are not usable; give 0 to {MOST_NODULES}.")
        if self.device not in DEVICES:
            raise UnusableInput(f"'{self.device}' is not a device; choose one of {', '.join(DEVICES)}.")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A synthetic chest: ``volume`` in HU with its provenance, and the ``labelmap`` it shows, or None where the preset knows none."""

    volume: Volume
    labelmap: LabelMap | None
    seed: int


def seed_of(cohort: int, number: int) -> int:
    """The seed of volume ``number`` of a cohort, whatever the cohort's size."""
    return int(np.random.SeedSequence([cohort, number]).generate_state(1)[0] & 0x7FFFFFFF)


def check(request: VolumeRequest) -> ModelCard:
    """The preset's card, if the request can be met.

    Raises
    ------
    UnusableInput
        If there is no such model, it needs a segmentation, or the preset lacks what is asked for.
    """
    try:
        card = load_card(request.preset)
    except UnusableInput as error:
        if request.preset in PRESETS:
            raise UnusableInput(f"The preset '{request.preset}' ships without weights; train it with `ctsynthesis train {request.preset}` "
                                "and name the model file.") from error  # fmt: skip
        raise
    if card.kind not in FROM_NOTHING:
        raise UnusableInput(f"The model '{card.name}' needs a segmentation; for volumes from nothing choose {', '.join(PRESETS)}.")
    if card.kind != "anatomy" and request.nodules:
        raise UnusableInput(f"The preset '{card.name}' draws voxels and knows no nodules; choose anatomy.")
    if card.kind != "anatomy" and request.size not in (None, 224):
        raise UnusableInput(f"The preset '{card.name}' draws 224 voxels along each side and no others; choose anatomy.")
    return card


def draw(request: VolumeRequest, number: int, *, progress: Callable[[float, str], None] | None = None, cancelled=None) -> Drawn:
    """Volume ``number`` of a cohort.

    Parameters
    ----------
    progress, cancelled : callables, optional
        As in :func:`CTSynthesisLib.synthesis.generate.generate`.
    """
    card = check(request)
    seed = seed_of(request.seed, number)
    if card.kind == "anatomy":
        return _from_anatomy(card, request, seed, progress, cancelled)
    from .voxel_gan import draw_voxels  # torch

    hu, spacing = draw_voxels(card, seed, request.device)
    geometry = Geometry.from_spacing(hu.shape, spacing, [(n - 1) / 2 * s * sign for n, s, sign in zip(hu.shape[::-1], spacing, (1, 1, -1),
                                                                                                     strict=True)])  # fmt: skip
    return Drawn(Volume(hu, geometry, _provenance(card, request, seed)), None, seed)


def scan_of(request: VolumeRequest, seed: int) -> Request:
    """How the scanner of person ``seed`` sees: what is not anatomy, drawn from the seed."""
    rng = np.random.default_rng((seed, 7))
    return Request(
        model=request.renderer, seed=seed, device=request.device,
        phase=str(rng.choice([name for name, _ in PHASES], p=[share for _, share in PHASES])),
        noise=float(np.clip(rng.lognormal(np.log(NOISE_HU), NOISE_SPREAD), 6, 45)),
        sharpness=float(rng.uniform(*SHARPNESS)),
        hu={"lungs": float(rng.uniform(*LUNG_HU))},
        slice_correlation=float(rng.uniform(*SHARED)),
    )  # fmt: skip


def _from_anatomy(card, request, seed, progress, cancelled) -> Drawn:
    from .anatomy_model import chest_geometry, draw_anatomy  # torch
    from .generate import generate

    if progress:
        progress(0.0, "drawing the anatomy")
    size = request.size or 224
    labelmap = draw_anatomy(card, seed, chest_geometry((size, size, size), EXTENT_MM), nodules=request.nodules)
    # Air is air: only the body and a margin are rendered. The network's noise lives in the world, so the crop changes no voxel of the body
    # but for the rounding of bfloat16.
    box = body_box(labelmap.array, MARGIN)
    geometry = labelmap.geometry.crop([s.start for s in box], [s.stop - s.start for s in box])
    body = LabelMap(np.ascontiguousarray(labelmap.array[box]), geometry, labelmap.segments)
    result = generate(body, scan_of(request, seed), progress=progress, cancelled=cancelled)
    hu = np.full(labelmap.geometry.shape, AIR_HU, np.int16)
    hu[box] = result.volume.array
    return Drawn(Volume(hu, labelmap.geometry, {**result.volume.metadata, **_provenance(card, request, seed)}), labelmap, seed)


def body_box(array: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """The slices of all that is not 0, and ``margin`` voxels more in the plane."""
    spans = [np.flatnonzero(array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        return tuple(slice(0, n) for n in array.shape)
    wide = (0, margin, margin)
    return tuple(slice(max(int(s[0]) - m, 0), min(int(s[-1]) + 1 + m, n)) for s, m, n in zip(spans, wide, array.shape, strict=True))


def _provenance(card: ModelCard, request: VolumeRequest, seed: int) -> dict[str, str]:
    facts = {
        "CTSynthesis.Synthetic": "1",
        "CTSynthesis.Version": __version__,
        "CTSynthesis.VolumePreset": card.name,
        "CTSynthesis.VolumePresetVersion": card.version,
        "CTSynthesis.VolumeWeightsSHA256": card.sha256,
        "CTSynthesis.VolumeSeed": str(seed),
        "CTSynthesis.VolumeRequest": json.dumps(asdict(request), sort_keys=True),
    }
    if card.kind != "anatomy":
        facts |= {"CTSynthesis.Model": card.name, "CTSynthesis.ModelVersion": card.version, "CTSynthesis.WeightsSHA256": card.sha256,
                  "CTSynthesis.Seed": str(seed)}  # fmt: skip
    return facts
