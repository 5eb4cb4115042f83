"""What a segmentation leaves open is filled in before the generator draws: it sees ±92 pixels and cannot know where a spine belongs.

First a standard anatomy is laid over the segmentation (:mod:`standard_anatomy`); where it does not reach, below the second lumbar
vertebra or above the neck, a small network guesses tissues (:mod:`completion`); lungs without vessels get some (:mod:`lung_vessels`).
What was painted is never touched, and the user is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..anatomy import Structure, Tissue, Understood, ancestors, structure, understand
from ..modelstore import load_card
from ..volume import Geometry, Segment
from .completion import GUESSES, complete
from .condition import BLOOD, BODY, CLASS_OF_TISSUE, LUNG
from .lung_vessels import grow_vessels
from .outline import OUTLINES
from .request import FILLED, Request
from .standard_anatomy import draw, place, standard_anatomy

VESSELS = ("lung_vessels", "lung_arteries", "lung_veins")
CONTRAST_HU = 100.0  # blood above this holds contrast medium
SEVERAL = 3  # bones: whoever painted so many painted them all
WORTH_TELLING = 0.01  # share of the body


@dataclass(frozen=True, eq=False)
class Labels:
    """Axial label ``values`` (k, j, i) and the tables over them that :class:`~CTSynthesisLib.synthesis.condition.Condition` has."""

    values: np.ndarray
    tissue: np.ndarray
    hu: np.ndarray
    known: np.ndarray

    def extended(self, tissue, hu, known) -> Labels:
        """With more labels after the last one."""
        tables = [np.concatenate(pair).astype(pair[0].dtype) for pair in ((self.tissue, tissue), (self.hu, hu), (self.known, known))]
        return Labels(self.values, *tables)

    @property
    def unspecified(self) -> np.ndarray:
        return (self.tissue == BODY)[self.values]


def fill(
    labels: Labels, understood: tuple[Understood, ...], geometry: Geometry, request: Request, check=None
) -> tuple[Labels, list[str]]:
    """``labels`` with the unspecified interior and empty lungs filled in, and sentences that say so.

    Parameters
    ----------
    understood : tuple of Understood
        What the painted labels mean.
    check : callable, optional
        Called now and then; may raise to stop.
    """
    sentences = []
    labels = Labels(labels.values.astype(np.uint16), labels.tissue, labels.hu, labels.known)
    body = (labels.values > 0).sum()
    unspecified = labels.unspecified
    share = unspecified.sum() / max(body, 1)
    if share > 0:
        labels, reached = _standard(labels, unspecified, understood, geometry, request, check)
        if reached * share > WORTH_TELLING:
            sentences.append(f"No segment says what {share:.0%} of the body holds; a standard anatomy, fitted to the rest, was filled in.")
        if reached < 1:
            labels = _guessed(labels, understood, geometry, request)
            guessed = (1 - reached) * share
            if guessed > WORTH_TELLING:
                sentences.append(f"In {guessed:.0%} of the body, which the standard anatomy does not reach, tissues were guessed.")
    if not any(u.structure.name in VESSELS for u in understood):
        lungs = (labels.tissue == LUNG)[labels.values]
        vessels = grow_vessels(lungs, geometry, request.seed) if lungs.any() else lungs
        if vessels.any():
            labels.values[vessels] = len(labels.tissue)
            (expected,) = _understood(("lung_vessels",), request)
            labels = labels.extended([BLOOD], [expected.mean_hu], ["lung_vessels" in request.filled_hu])
            sentences.append("The lungs came without vessels; plausible ones were grown.")
    return labels, sentences


def _standard(labels: Labels, unspecified, understood, geometry, request: Request, check) -> tuple[Labels, float]:
    """The standard anatomy in what is unspecified, and the share of it that it reaches."""
    outline = any(u.structure.name in OUTLINES for u in understood) and not (labels.values > 0).all()
    placed = place(labels.values, understood, geometry, seed=request.seed, outline=outline, check=check)
    if placed is None:
        return labels, 0.0
    drawn = draw(placed, unspecified, geometry)
    where = drawn > 0
    labels.values[where] = drawn[where] + np.uint16(len(labels.tissue))
    theirs = standard_anatomy().understood
    size = max(u.segment.value for u in theirs) + 1
    tissue, hu, known = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, bool)
    for u, (level, told) in zip(theirs, hounsfield_of([u.structure for u in theirs], request), strict=True):
        tissue[u.segment.value], hu[u.segment.value], known[u.segment.value] = CLASS_OF_TISSUE[u.structure.tissue], level, told
    return labels.extended(tissue, hu, known), where.sum() / unspecified.sum()


def _guessed(labels: Labels, understood, geometry, request: Request) -> Labels:
    """Tissues in what is still unspecified."""
    told = labels.hu[labels.tissue == BLOOD]
    contrast = request.phase != "plain" or bool((told > CONTRAST_HU).any())
    bones = sum(u.structure.tissue is Tissue.BONE for u in understood)
    guess = complete(
        load_card("completion"), labels.values, labels.tissue, labels.hu, geometry, seed=request.seed, contrast=contrast,
        bones_are_painted=bones >= SEVERAL,
    )  # fmt: skip
    for n, kind in enumerate(GUESSES):
        labels.values[guess == kind] = len(labels.tissue) + n
    names = FILLED[: len(GUESSES)]
    return labels.extended(GUESSES, [u.mean_hu for u in _understood(names, request)], [name in request.filled_hu for name in names])


def _understood(names, request: Request) -> tuple[Understood, ...]:
    """What the engine's own ``names`` mean under the request."""
    segments = [Segment(n + 1, name) for n, name in enumerate(names)]
    return understand(segments, phase=request.phase, hu=request.filled_hu, elsewhere=FILLED)


def hounsfield_of(wanted: list[Structure], request: Request) -> list[tuple[float, bool]]:
    """HU of structures that are filled in, and whether the request says it.

    The request knows a few tissues by name (:data:`FILLED`): set by the user, or read from a scan. Fat, bone and lungs take that value.
    Organs are moved by as much as muscle. What holds blood gets its share of the contrast found in the blood: a vein less than the aorta.
    """
    told = request.filled_hu
    contrast = told.get("blood", 0.0) > CONTRAST_HU
    phase = "portal" if contrast and request.phase == "plain" else request.phase
    blood, muscle = structure("blood"), structure("muscle")
    result = []
    for one in wanted:
        mean = one.mean(phase)
        families = {one.name, *(a.name for a in ancestors(one))}
        if one.tissue is Tissue.FAT and "fat" in told:
            result.append((told["fat"], True))
        elif one.tissue is Tissue.BONE and "bone" in told:
            result.append((told["bone"], True))
        elif one.tissue is Tissue.LUNG and "lungs" in told:
            result.append((told["lungs"], True))
        elif one.tissue is Tissue.BLOOD and "blood" in told and contrast:
            enhanced = (one.mean(phase) - one.mean()) / (blood.mean(phase) - blood.mean())
            result.append((one.mean() + enhanced * (told["blood"] - blood.mean()), True))
        elif one.tissue in (Tissue.ORGAN, Tissue.MUSCLE) and "soft_tissue" in told and not {"cartilage", "airway_wall"} & families:
            result.append((mean + told["soft_tissue"] - muscle.mean(phase), one.tissue is Tissue.MUSCLE))
        else:
            result.append((mean, False))
    return result
