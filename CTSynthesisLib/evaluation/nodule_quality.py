"""How good injected and erased nodules are: size, HU, seam, texture, time; and whether a classifier still sees what was erased.

``python -m CTSynthesisLib.evaluation.nodule_quality --data DIR --cases A B -o FILE.json`` measures on held-out cases. What the
engine was told is not looked up: diameters are read from the image at half contrast, and spreads from voxels that it left alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..files import read_volume
from ..synthesis.nodule_places import VALUE, is_lung, lungs_of, random_places
from ..synthesis.nodule_shape import EDGES, GLASS_HU, HALO_HU, KINDS, SOLID_HU, Nodule, render
from ..synthesis.nodule_voi import bounds, cut, gaussian
from ..synthesis.nodules import erase, inject
from ..volume import Geometry, Volume, distance_mm, resample

DIAMETERS = (5.0, 8.0, 12.0, 18.0, 25.0)  # mm
SHELL_MM = (2.0, 10.0)  # from what was changed: its surroundings
FINE_MM = 0.5  # grid that diameters are read on
LEAST_CONTRAST = 60.0  # HU
INNER = 0.9  # of a voxel that counts as the nodule's inside, least share filled


@dataclass(frozen=True)
class Row:
    """One nodule. Lengths in mm, values in HU; ``None`` where too few voxels would tell."""

    case: str
    kind: str
    edge: str
    diameter: float
    left_in_lung: float  # share of the nodule
    measured: float | None
    hu_off: float | None  # mean of its inside, less what its type has there
    seam: float  # mean step across the border of what was changed, over that in the surroundings
    seam_before: float  # the same where that border will run, in the scan as it was
    seam_erased: float
    seam_erased_before: float
    spread: float | None  # of the erased region, over that of the lung around it
    difference: float | None  # mean absolute, to the scan before: over that between healthy places of the scan
    inject_seconds: float
    erase_seconds: float
    inject_processor: float
    erase_processor: float


def measure(volume: Volume, labels: np.ndarray, case: str, *, seed: int = 0, diameters=DIAMETERS, kinds=KINDS, edges=EDGES) -> list[Row]:
    """Inject one nodule of each kind, edge and diameter by itself, measure it, erase it, measure again."""
    rows, spacing = [], volume.geometry.spacing
    for number, (kind, edge, diameter) in enumerate((k, e, d) for k in kinds for e in edges for d in diameters):
        nodule = Nodule(diameter, kind, edge, seed + number)
        (at,) = random_places(labels, spacing, [nodule], seed + 101 * number)
        used = time.process_time()
        made = inject(volume, [(nodule, at)], labels, seed=seed)
        inject_times = made.seconds[0], time.process_time() - used
        used = time.process_time()
        mask = made.segmentation.array > 0
        cleared = erase(made.volume, [mask], labels, seed=seed)
        erase_times = cleared.seconds[0], time.process_time() - used
        box = _Box(volume, labels, at, 2 * (nodule.reach_mm + 16))
        before, with_nodule, after, mask = (box.cut(a) for a in (volume.array, made.volume.array, cleared.volume.array, mask))
        rendered = render(nodule, mask.shape, spacing, box.centre)
        times = (round(t, 2) for pair in zip(inject_times, erase_times, strict=True) for t in pair)
        rows.append(Row(
            case, kind, edge, diameter,
            round(float(rendered.occupancy[box.lung].sum() / rendered.occupancy.sum()), 3),
            diameter_of(before, with_nodule, spacing, box, kind),
            hu_off(with_nodule, rendered, mask & box.healthy),
            seam(with_nodule, before != with_nodule, box.lung, spacing),
            seam(before, before != with_nodule, box.lung, spacing),
            seam(after, with_nodule != after, box.lung, spacing),
            seam(before, with_nodule != after, box.lung, spacing),
            spread_ratio(after, with_nodule != after, mask, box.healthy, spacing),
            difference_ratio(before, after, mask, box.lung, seed + number),
            *times,
        ))  # fmt: skip
    return rows


class _Box:
    """A part of the scan around voxel ``at`` (k, j, i), ``side`` mm wide."""

    def __init__(self, volume, labels, at, side):
        self._low, self._count = bounds(volume.array.shape, volume.geometry.spacing, at, int(np.ceil(side)))
        self.centre = np.asarray(at, float) - self._low
        labels = self.cut(labels)
        self.lung, self.healthy = is_lung(labels), labels == VALUE["lungs"]

    def cut(self, array):
        return cut(array, self._low, self._count)


def diameter_of(before, after, spacing, box, kind) -> float | None:
    """Diameter of the ball of the nodule's volume, read at half contrast between the lung around and the type's HU at its border.

    Of the image smoothed by 0.5 mm (its grain) on a grid of 0.5 mm: what is above that threshold and connected, where the scan became
    brighter (closed by 2 mm: a vessel that runs through ground glass stays what it was, one that passes by does not count). None where
    the lung is nearly as dense as the type: there is no border to read.
    """
    changed = before != after
    shell = box.healthy & (distance_mm(changed, np.asarray(spacing)) < SHELL_MM[1]) & ~changed
    base = float(np.median(before[shell])) if shell.sum() > 50 else -850.0
    contrast = {"solid": SOLID_HU, "part-solid": HALO_HU, "ground-glass": GLASS_HU}[kind] - base
    if contrast < LEAST_CONTRAST:
        return None
    native = Geometry.from_spacing(before.shape, spacing)
    fine = native.with_spacing((FINE_MM,) * 3)
    even, brighter = (resample(gaussian(a, spacing, 0.5), native, fine) for a in (after - base, after.astype(np.float32) - before))
    region = sitk.GetImageFromArray((brighter > 0.3 * contrast).astype(np.uint8))
    region = sitk.GetArrayFromImage(sitk.BinaryMorphologicalClosing(region, [round(2 / FINE_MM)] * 3, sitk.sitkBall)) > 0
    inside = sitk.GetImageFromArray(((even > 0.5 * contrast) & region).astype(np.uint8))
    parts = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(sitk.BinaryFillhole(inside))))
    voxels = int((parts == 1).sum())
    return round((6 * voxels * FINE_MM**3 / np.pi) ** (1 / 3), 2) if voxels else None


def hu_off(after, rendered, mask) -> float | None:
    """Mean HU inside the nodule (vessels that run through it left out), less that of its type there."""
    inner = (rendered.occupancy > INNER) & mask
    return round(float((after[inner] - rendered.hu[inner]).mean()), 1) if inner.sum() >= 4 else None


def seam(image, changed, lung, spacing) -> float:
    """Mean absolute step between neighbouring voxels across the border of what was changed, over that in the lung around it.

    Along each axis by itself, as many steps as the border has there: slices lie farther apart than rows, so steps across them are larger.
    """
    shell = lung & ~changed
    away = distance_mm(changed, np.asarray(spacing))
    shell &= (away > SHELL_MM[0]) & (away < SHELL_MM[1])
    total, expected = 0.0, 0.0
    for axis in range(3):
        one, other = (tuple(slice(a, b) if n == axis else slice(None) for n in range(3)) for a, b in ((0, -1), (1, None)))
        step = np.abs(image[one].astype(np.float32) - image[other])
        border = (changed[one] != changed[other]) & lung[one] & lung[other]
        around = step[shell[one] & shell[other]]
        if around.size:
            total += float(step[border].sum())
            expected += float(around.mean()) * int(border.sum())
    return round(total / expected, 3) if expected else 0.0


def spread_ratio(after, changed, mask, healthy, spacing) -> float | None:
    """Standard deviation of what was erased over that of the lung (vessels left out) around it."""
    away = distance_mm(changed, np.asarray(spacing))
    shell = healthy & ~changed & (away > 0) & (away < SHELL_MM[1])
    inner = mask & healthy
    if inner.sum() < 25 or shell.sum() < 200:
        return None
    return round(float(after[inner].std() / after[shell].std()), 3)


def difference_ratio(before, after, mask, lung, seed, places=40) -> float | None:
    """Mean absolute difference inside the nodule, over that between two healthy places of the scan with the nodule's shape (the mean)."""
    rng = np.random.default_rng(seed)
    where = np.argwhere(mask)
    shape, found = np.ptp(where, axis=0) + 1, []
    form = mask[tuple(slice(a, a + n) for a, n in zip(where.min(0), shape, strict=True))]
    for _ in range(60 * places):
        at = rng.integers(0, np.maximum(np.array(mask.shape) - shape, 0) + 1)
        part = tuple(slice(a, a + n) for a, n in zip(at, shape, strict=True))
        if lung[part][form].mean() > 0.97 and not mask[part][form].any():
            found.append(before[part][form].astype(np.float32))
        if len(found) == places:
            break
    if len(found) < 4:
        return None
    healthy_difference = np.mean([np.abs(a - b).mean() for a, b in zip(found[::2], found[1::2], strict=False)])
    return round(float(np.abs(after[mask].astype(np.float32) - before[mask]).mean() / healthy_difference), 3)


def summary(rows: list[Row]) -> dict:
    """Shares of the rows that hold each figure of the issue, and medians."""

    def values(name):
        return np.array([v for v in (getattr(row, name) for row in rows) if v is not None], float)

    whole = [row for row in rows if row.measured is not None and row.left_in_lung > 0.97]
    off = np.array([abs(row.measured - row.diameter) <= max(1.0, 0.1 * row.diameter) for row in whole])
    spread, difference = values("spread"), values("difference")
    return {
        "nodules": len(rows),
        "diameter_right": float(off.mean()) if off.size else None, "diameter_counted": int(off.size),
        "diameter_error_mm": float(np.mean([row.measured - row.diameter for row in whole])) if whole else None,
        "hu_within_50": float((np.abs(values("hu_off")) <= 50).mean()), "hu_counted": len(values("hu_off")),
        "seam_median": float(np.median(values("seam"))), "seam_erased_median": float(np.median(values("seam_erased"))),
        "seam_before_median": float(np.median(values("seam_before"))),
        "seam_erased_before_median": float(np.median(values("seam_erased_before"))),
        "seam_over_before": float((values("seam") / values("seam_before")).mean()),
        "seam_erased_over_before": float((values("seam_erased") / values("seam_erased_before")).mean()),
        "spread_median": float(np.median(spread)), "spread_within": float(((spread >= 0.85) & (spread <= 1.18)).mean()),
        "difference_median": float(np.median(difference)), "difference_mean": float(difference.mean()),
        "difference_within": float((difference <= 1.15).mean()),
        "inject_processor_seconds": [float(np.median(values("inject_processor"))), float(values("inject_processor").max())],
        "erase_processor_seconds": [float(np.median(values("erase_processor"))), float(values("erase_processor").max())],
        "inject_seconds": [float(np.median(values("inject_seconds"))), float(values("inject_seconds").max())],
        "erase_seconds": [float(np.median(values("erase_seconds"))), float(values("erase_seconds").max())],
    }  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.evaluation.nodule_quality", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of cases")
    parser.add_argument("--cases", nargs="+", required=True, help="held-out cases to measure on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--diameters", type=float, nargs="+", default=DIAMETERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rows = []
    for case in options.cases:
        volume = read_volume(options.data / case / "ct.nrrd")
        rows += measure(volume, lungs_of(volume), case, seed=options.seed, diameters=options.diameters)
        print(case, json.dumps(summary([row for row in rows if row.case == case])), flush=True)
    result = {"all": summary(rows)} | {kind: summary([row for row in rows if row.kind == kind]) for kind in KINDS}
    options.output.write_text(json.dumps(result | {"rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")
    print(json.dumps(result["all"], indent=1))


if __name__ == "__main__":
    main()
