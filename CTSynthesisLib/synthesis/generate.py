"""From a label map and a request to a synthetic CT: the one door of the engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .. import __version__
from ..anatomy import Understood, closeness, understand
from ..errors import SynthesisFailed, UnusableInput
from ..files.between import sparse_segments
from ..modelstore import ModelCard, load_card
from ..volume import AIR_HU, Geometry, LabelMap, Volume, reorder, resample, restore
from .memory import check_memory
from .outline import OUTLINES, derive_outline
from .request import FILLED, Request

TRAINED_SPACING = (0.6, 3.2)  # mm in-plane
TRAINED_SLICES = (0.7, 6.0)  # mm
# of routine body CT, where the request does not say: the medians of the training scans
NOISE_HU = 17.5
SHARPNESS = {"soft": 0.25, None: 0.4, "sharp": 0.8}
FEATHER_MM = 2.0  # over which a generated segment fades into the reference CT around it


class Cancelled(Exception):
    """The caller asked to stop; nothing was made."""


@dataclass(frozen=True)
class Result:
    """A synthetic CT, and how it came about.

    ``volume`` holds int16 HU on exactly the label map's geometry, its ``metadata`` the provenance; ``assumptions`` are sentences for the
    user.
    """

    volume: Volume
    understood: tuple[Understood, ...]
    assumptions: tuple[str, ...]
    device: str
    seconds: float


def generate(
    labelmap: LabelMap,
    request: Request,
    *,
    names: dict[str, str] | None = None,
    reference: Volume | None = None,
    assumed: Iterable[str] = (),
    progress=None,
    cancelled=None,
) -> Result:
    """Generate a synthetic CT for ``labelmap``.

    Parameters
    ----------
    names : dict, optional
        The user's corrections: structure name by segment name.
    reference : Volume, optional
        The CT that surrounds the segments when ``request.outside`` is ``reference``.
    assumed : iterable of str
        What was assumed in making the request, to be told with the rest.
    progress : callable, optional
        ``progress(fraction, stage)``.
    cancelled : callable, optional
        Asked between blocks; True raises :class:`Cancelled`.

    Raises
    ------
    UnusableInput
        If the label map is empty, the model is missing or damaged, a name is unknown, the reference does not overlap, or the volume is
        too large for the memory.
    SynthesisFailed
        If PyTorch or the device asked for is missing, or memory runs out.
    """
    started = time.monotonic()
    report = progress or (lambda fraction, stage: None)
    report(0.0, "reading the segmentation")
    present = set(np.unique(labelmap.array).tolist())
    filled = FILLED if request.inside == "anatomy" else ()
    everything = understand(labelmap.segments, phase=request.phase, names=names, hu=request.hu, elsewhere=filled)
    understood = tuple(u for u in everything if u.segment.value in present)
    if not understood:
        raise UnusableInput("The segmentation is empty: no voxel belongs to any segment; paint something first.")
    card = load_card(request.model)
    if not card.generates:
        raise UnusableInput(f"The model '{card.name}' generates no CT by itself; choose one that does, for example default.")
    check_memory(labelmap.array.size)
    _need_torch()
    assumptions = [*assumed, *(u.note for u in understood if u.note)]
    surroundings = _surroundings(labelmap, request, reference)
    labels, sentence = _with_outline(labelmap, understood, request, draws_surroundings=card.kind == "habijan2022")
    assumptions += [sentence] if sentence else []
    assumptions += [*sparse_segments(labelmap), *_outside_training(labelmap)]

    def between(fraction):
        report(0.1 + 0.85 * fraction, "generating")
        if cancelled and cancelled():
            raise Cancelled("Generating was cancelled.")

    report(0.05, "loading the model")
    hu, device, sentences = _run(card, labels, labelmap.geometry, understood, request, between)
    assumptions += sentences
    report(0.95, "finishing")
    if surroundings is not None:
        hu = _blend(hu, surroundings, labelmap)
    metadata = _provenance(card, request, understood, assumptions)
    report(1.0, "done")
    return Result(Volume(hu, labelmap.geometry, metadata), understood, tuple(assumptions), device, time.monotonic() - started)


def _need_torch():
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise SynthesisFailed(f"PyTorch is needed to generate and is not installed ({error.name} is missing); install it first.") from error


def _run(card: ModelCard, labels, geometry, understood, request: Request, between):
    """HU (k, j, i) int16 on ``geometry``, the device, and what was assumed. The network sees axial slices, whichever way the grid lies."""
    from . import habijan, krishna, within_memory

    try:
        axes, flips = geometry.anatomical_axes
        axial = geometry.reordered(axes, flips)
        values = np.ascontiguousarray(reorder(labels, axes, flips))
        between(0.0)
        if card.kind == "habijan2022":
            engine, sentences = habijan.load(card, request.device), []
            hu = engine.generate(values, understood, (axial.spacing[1], axial.spacing[0]), between=between)
            device = engine.device
        elif card.kind == "krishna2019":
            engine, sentences = krishna.load(card, request.device), []
            hu = engine.generate(values, understood, (axial.spacing[1], axial.spacing[0]), seed=request.seed, between=between)
            device = engine.device
        else:
            condition, sentences = condition_of(values, understood, axial, request, check=lambda: between(0.0))
            hu, device, told = within_memory.generate(
                card, request.device, condition, axial.lattice_origin(), seed=request.seed, between=between
            )
            sentences = [*sentences, *told]
        return np.ascontiguousarray(restore(hu, axes, flips)), device, sentences
    except MemoryError as error:
        raise SynthesisFailed("Memory ran out while generating; close other programs or generate a smaller part.") from error
    except RuntimeError as error:
        if "out of memory" in str(error).lower() or "can't allocate" in str(error).lower():
            raise SynthesisFailed("Memory ran out while generating; choose the CPU, or close other programs.") from error
        raise


def condition_of(values, understood, geometry: Geometry, request: Request, check=None):
    """The condition of axial label ``values`` (k, j, i), and sentences on what was filled in.

    Unspecified interior and lungs without vessels are filled in first, unless the request says ``plain``; ``check`` is called meanwhile and
    may raise to stop.
    """
    from .condition import AIR, BODY, BODY_HU, CLASS_OF_TISSUE, Condition
    from .filling import Labels, fill

    size = int(values.max()) + 1
    tissue, hu, known = np.full(size, BODY, np.int64), np.full(size, BODY_HU, np.float32), np.zeros(size, bool)
    tissue[0], hu[0], known[0] = AIR, AIR_HU, True
    for u in understood:
        if u.segment.value < size:
            tissue[u.segment.value] = kind = CLASS_OF_TISSUE[u.structure.tissue]
            if kind != BODY or _is_set(u, request):
                hu[u.segment.value] = u.mean_hu
                known[u.segment.value] = u.how != "not understood" or _is_set(u, request)
    labels, sentences = Labels(values, tissue, hu, known), []
    if request.inside == "anatomy":
        labels, sentences = fill(labels, tuple(understood), geometry, request, check)
    return Condition(labels.values, labels.tissue, labels.hu, labels.known, _scan(geometry, request)), sentences


def _scan(geometry: Geometry, request: Request):
    from .condition import Scan

    noise = NOISE_HU if request.noise is None else request.noise
    sharpness = SHARPNESS[request.kernel] if request.sharpness is None else request.sharpness
    shared = request.slice_correlation
    if shared is None and request.thickness is not None:  # of two box-shaped slices that overlap
        shared = max(0.0, 1 - geometry.spacing[2] / request.thickness)
    elif shared is None:  # 0.6 at slices of 2 mm, 0.35 at 5 mm
        shared = float(np.clip(0.75 - 0.08 * geometry.spacing[2], 0.3, 0.8))
    return Scan(tuple(geometry.spacing), noise, sharpness, shared, request.grain)


def _is_set(u: Understood, request: Request) -> bool:
    return u.segment.hu is not None or any(closeness(key, u.segment, u.structure, alike=True) is not None for key in request.hu or ())


def _with_outline(labelmap: LabelMap, understood, request: Request, draws_surroundings: bool):
    """The labels with a body around them where there is none, and the sentence that says so.

    A model that ``draws_surroundings`` by itself, from masks of a few structures, is not told of a body.
    """
    if draws_surroundings or request.outside == "air" or any(u.structure.name in OUTLINES for u in understood):
        return labelmap.array, ""
    body, sentence = derive_outline(labelmap, understood, seed=request.seed)
    value = int(max(s.value for s in labelmap.segments)) + 1  # understood by no segment: the interior, unspecified
    return np.where(labelmap.array > 0, labelmap.array, np.where(body, np.uint16(value), np.uint16(0))), sentence


def _outside_training(labelmap: LabelMap) -> list[str]:
    spacing = labelmap.geometry.reordered(*labelmap.geometry.anatomical_axes).spacing
    sentences = []
    if not (TRAINED_SPACING[0] <= min(spacing[:2]) and max(spacing[:2]) <= TRAINED_SPACING[1]):
        sentences.append(f"The pixels of {spacing[0]:.2f} × {spacing[1]:.2f} mm lie outside the 0.6-3.2 mm the model was trained for.")
    if not TRAINED_SLICES[0] <= spacing[2] <= TRAINED_SLICES[1]:
        sentences.append(f"The slice spacing of {spacing[2]:.2f} mm lies outside the 0.7-6 mm the model was trained for.")
    return sentences


def _surroundings(labelmap: LabelMap, request: Request, reference: Volume | None):
    """The reference CT on the label map's grid, or None when it is not asked for."""
    if request.outside != "reference":
        return None
    if reference is None:
        raise UnusableInput("Outside the segments a reference CT was asked for, but none was given; choose one.")
    missing = -32768
    on_grid = resample(reference.array.astype(np.int16), reference.geometry, labelmap.geometry, outside=missing)
    if (on_grid > -3000).mean() < 0.01:
        raise UnusableInput("The reference CT does not overlap the segmentation; check that both belong to the same patient and frame.")
    return np.where(on_grid > -3000, on_grid, AIR_HU).astype(np.int16)


def _blend(hu, surroundings, labelmap: LabelMap):
    """Generated voxels inside the segments, the reference outside, bit for bit; the fade lies inside the segments."""
    import SimpleITK as sitk

    from ..volume import to_sitk

    inside = to_sitk((labelmap.array > 0).astype(np.uint8), labelmap.geometry)
    depth = -sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(inside, squaredDistance=False, useImageSpacing=True))
    weight = np.clip((depth + labelmap.geometry.spacing.min()) / FEATHER_MM, 0, 1)  # the outermost voxels of a segment have depth 0
    weight[labelmap.array == 0] = 0
    return np.rint(weight * hu + (1 - weight) * surroundings).astype(np.int16)


def _provenance(card: ModelCard, request: Request, understood, assumptions) -> dict[str, str]:
    mapping = [  # not by name, for two segments may have one
        {"segment": u.segment.name, "label": u.segment.label, "structure": u.structure.name, "how": u.how, "hu": u.mean_hu}
        for u in understood
    ]
    return {
        "CTSynthesis.Synthetic": "1",
        "CTSynthesis.Version": __version__,
        "CTSynthesis.Model": card.name,
        "CTSynthesis.ModelVersion": card.version,
        "CTSynthesis.WeightsSHA256": card.sha256,
        "CTSynthesis.Seed": str(request.seed),
        "CTSynthesis.Request": request.to_json(),
        "CTSynthesis.LabelMapping": json.dumps(mapping),
        "CTSynthesis.Assumptions": json.dumps(assumptions),
    }
