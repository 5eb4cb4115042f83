"""What puts nodules into samples and takes them out: the networks of ``ctsynthesis nodule``, as the nodule experiment calls them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..modelstore import load_card
from ..synthesis import nodules
from .nodule_samples import Erase, Inject

BEYOND_MM = 2.0  # around a marked nodule, which has faint rims


@dataclass(frozen=True)
class Hands:
    """``name`` says in every output what injected and erased."""

    inject: Inject
    erase: Erase
    name: str


def networks(injector: str = nodules.INJECTOR, eraser: str = nodules.ERASER) -> Hands:
    """The networks of two models (names or files).

    Raises
    ------
    UnusableInput
        If one of them is not there.
    """
    cards = [load_card(name) for name in (injector, eraser)]

    def inject(volume, centre, nodule):
        at = np.linalg.solve(volume.geometry.ijk_to_ras, [*centre, 1.0])[2::-1]
        return nodules.inject(volume, [(nodule, tuple(at))], None, seed=nodule.seed, injector=injector).volume

    def erase(volume, centre, diameter_mm):
        at = np.linalg.solve(volume.geometry.ijk_to_ras, [*centre, 1.0])[2::-1]
        steps = volume.geometry.spacing[::-1]
        distance = np.sqrt(sum(((axis - c) * s) ** 2 for axis, c, s in zip(np.indices(volume.array.shape), at, steps, strict=True)))
        return nodules.erase(volume, [distance <= diameter_mm / 2 + BEYOND_MM], None, eraser=eraser).volume

    return Hands(inject, erase, " and ".join(f"{card.name} {card.version}" for card in cards))
