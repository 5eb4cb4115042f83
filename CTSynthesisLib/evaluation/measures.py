"""Every figure of one volume against a real scan, as one flat record: ``spread_ratio.lungs``, ``change.k``, ``border_jump``, ..."""

from __future__ import annotations

import math

import numpy as np

from ..volume import LabelMap
from . import coherence, hounsfield, image, structure, texture
from .cases import Case, Structures
from .tissues import ENOUGH_ML, GROUPS, told


def drawn_against(drawn: Case, real: Case, labelmap: LabelMap, borders: dict[int, list[int]] | None = None) -> dict:
    """Figures of a drawn volume, which is the real case with another CT, against the real scan.

    A tissue that ``labelmap`` told is compared where it was told, voxel by voxel. One that the method had to make up is looked for in
    both scans by the same rules, and then only its distribution is compared; ``missing.bone`` is 1 where there is none to be found, and
    ``missing.grain`` where there is no even soft tissue to read it from.

    Parameters
    ----------
    borders : dict, optional
        Where the blocks of an engine meet, see :func:`CTSynthesisLib.evaluation.coherence.border_jump`.
    """
    known = told(labelmap, real.body)
    figures: dict = {}
    where = {}
    for tissue in GROUPS:
        if tissue in known:
            pairs = [(drawn.ct.array[mask], real.ct.array[mask]) for _, mask in known[tissue]]
            union = np.logical_or.reduce([mask for _, mask in known[tissue]])
            where[tissue] = union, union
        elif tissue in real.found:
            where[tissue] = drawn.found[tissue], real.found[tissue]
            own, theirs = (mask.sum() * real.ct.geometry.voxel_ml for mask in where[tissue])
            if theirs < ENOUGH_ML:
                continue
            figures[f"missing.{tissue}"] = float(own < ENOUGH_ML / 4)
            pairs = [(drawn.ct.array[where[tissue][0]], real.ct.array[where[tissue][1]])]
        else:
            continue
        figures |= _histograms(tissue, pairs)
    even = _even(drawn, real, where["soft_tissue"], "soft_tissue" in known)
    figures |= _grain((drawn, even[0]), (real, even[1]))
    figures["missing.grain"] = float(math.isnan(figures["spectrum"]) and np.isfinite(real.once(texture.noise_spectrum, even[1])[1]).all())
    if borders is not None:
        figures["border_jump"] = coherence.border_jump(drawn.ct.array, borders, even[1]) if any(borders.values()) else 0.0
    figures |= _inside_structures((drawn, real), where["lungs"], where["bone"])
    figures |= _image(drawn, real)
    figures["structures"] = {
        name: hounsfield.compare(drawn.ct.array[mask], real.ct.array[mask]) for name, mask in Structures(real).items()
    }
    return figures


def person_against(person: Case, real: Case) -> dict:
    """Figures of another real person, each scan measured in its own regions."""
    figures: dict = {}
    for tissue in GROUPS:
        masks = person.region(tissue), real.region(tissue)
        if all(m.sum() * c.ct.geometry.voxel_ml >= ENOUGH_ML for m, c in zip(masks, (person, real), strict=True)):
            figures |= _histograms(tissue, [(person.ct.array[masks[0]], real.ct.array[masks[1]])])
    figures |= _grain((person, person.even), (real, real.even))
    lungs = [c.region("lungs", "lung_vessels") for c in (person, real)]
    figures |= _inside_structures((person, real), lungs, [c.region("bone") for c in (person, real)])
    if person.ct.geometry.agrees_with(real.ct.geometry):
        figures |= _image(person, real)
    return figures


def fidelity(drawn: Case, real: Case, names: set[str]) -> dict[str, float]:
    """Dice of what a re-segmenter sees in the drawn and in the real scan, with the real scan's regions: ``dice.bone``, ``real_dice.bone``.

    ``dice_ratio`` is that of the regions among ``names``, which were told, and that are found in the real scan with a Dice of at least 0.8.
    """
    from .fidelity import COUNTS_FROM, dice

    own, theirs = dice(drawn.resegmented, real.regions), dice(real.resegmented, real.regions)
    counted = [name for name, value in theirs.items() if name in names and value >= COUNTS_FROM]
    figures = {f"dice.{n}": float(v) for n, v in own.items()} | {f"real_dice.{n}": float(v) for n, v in theirs.items()}
    return figures | {"dice_ratio": _ratio(sum(own[name] for name in counted), sum(theirs[name] for name in counted))}


def _histograms(tissue, pairs):
    """Means over the structures of a tissue; ``pairs`` of (own HU, real HU)."""
    found = [hounsfield.compare(own, theirs) for own, theirs in pairs]
    return {
        f"median_error.{tissue}": _mean([abs(f["median_error"]) for f in found]),
        f"spread_ratio.{tissue}": math.exp(_mean([math.log(max(f["spread_ratio"], 1e-3)) for f in found])),  # 2 and 1/2 make 1
        f"wasserstein.{tissue}": _mean([f["wasserstein"] for f in found]),
    }


def _even(drawn, real, soft, is_told):
    """Where the grain of both is read: where the real scan is even and soft tissue was told, else where each of them is."""
    if is_told:
        even = real.once(texture.even_interior, soft[1])
        return even, even
    return tuple(c.once(texture.even_interior, mask) for c, mask in zip((drawn, real), soft, strict=True))


def _grain(*pairs):
    """Spectrum and differences of neighbours; each pair is (case, where its grain is read)."""
    figures = {"spectrum": texture.spectrum_difference(*(case.once(texture.noise_spectrum, even) for case, even in pairs))}
    one, other = (case.once(_changes, even) for case, even in pairs)
    figures |= {f"change.{axis}": _ratio(one[axis], other[axis]) for axis in "ijk"}
    return figures | {"slope_ratio": _ratio(*(case.once(coherence.gradient_energy_ratio, even) for case, even in pairs))}


def _changes(hu, even, spacing):
    return coherence.neighbour_change(hu, even)


def _inside_structures(cases, lungs, bone):
    """Vessels in the lungs, marrow in the bones, fat and muscle in the body."""
    figures = {}
    if all(mask.any() for mask in lungs):
        one, other = (case.once(structure.lung_vessels, mask) for case, mask in zip(cases, lungs, strict=True))
        figures["vessel_volume"] = _ratio(one["volume_fraction"], other["volume_fraction"])
        figures["vessel_length"] = _ratio(one["length_mm"], other["length_mm"])
        figures["vessel_branches"] = _ratio(one["branches"], other["branches"])
    if all(mask.any() for mask in bone):
        profiles = [case.once(structure.bone_profile, mask) for case, mask in zip(cases, bone, strict=True)]
        figures["bone_profile"] = float(structure.profile_distance(*profiles))
    one, other = (case.once(structure.fat_muscle, case.body) for case in cases)
    return figures | {f"{tissue}_points": 100 * abs(one[tissue] - other[tissue]) for tissue in ("fat", "muscle")}


def _image(one, real):
    pair = one.ct.array, real.ct.array, real.body
    return {"mae": image.mae(*pair), "ssim": image.ssim(*pair), "psnr": image.psnr(*pair)}


def _mean(values):
    values = [v for v in values if math.isfinite(v)]
    return float(np.mean(values)) if values else math.nan


def _ratio(a, b):
    return float(a / b) if b and np.isfinite(a) and np.isfinite(b) else math.nan
