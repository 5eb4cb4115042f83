"""How good the volumes from nothing are: the figures of ``ctsynthesis evaluate --volumes``, each beside that of real scans.

Paper 004's Table 1 (Fréchet distance and Inception Score, slice by slice, of pairs of scans), and what it leaves out: whether neighbouring
slices change as real ones do, whether volumes differ as persons do, and whether they are copies. All volumes are compared as cubes:
the lungs from base to apex and the whole body across.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np

from ..errors import UnusableInput
from ..files import read_volume
from ..modelstore import load_card
from ..synthesis.cohort import Cohort, make
from ..synthesis.ct_sgan import PRESETS, VolumeRequest
from ..synthesis.memory import give_memory_back
from ..volume import Geometry, Volume
from .audit import audit, noisy, warped
from .coherence import neighbour_change
from .distribution import all_planes, frechet, frechet_interval, real_against_real, reduced, tissue_shares
from .diversity import pairwise
from .fidelity import on_working_grid
from .inception import all_planes as inception_planes
from .inception import inception_score, score_of

SIDE = 224  # voxels of a cube
SLICE_MM = 2.5  # grid on which neighbouring slices are compared; scans with thicker slices are left out of it
FEWEST = 3  # persons
PAIRS = 20  # of scans, in Table 1's figures
BODY_HU = -500


@dataclass(frozen=True)
class VolumePlan:
    """``presets`` are names or files of models; ``cases`` names in ``data`` or paths of the real persons (default: all whole chests).

    Persons named on a preset's card were trained on; the others count as held out in the audit.
    """

    data: Path
    out: Path
    presets: tuple[str, ...] = PRESETS
    cases: tuple[str, ...] = ()
    number: int = 8
    seed: int = 0
    inception: Path | None = None
    device: str = "auto"


@dataclass(eq=False)
class _Group:
    """Scans that stand together: ``cubes`` in HU (k, j, i), and of each its ``changes`` from slice to slice, features (slices, d) and
    shares of tissues (slices, classes). The scans as they are, are not kept in memory."""

    name: str
    cubes: list[Volume]
    changes: list[float]
    features: list[np.ndarray]
    tissues: list[np.ndarray]
    cases: list[str]


def evaluate_volumes(plan: VolumePlan, report: Callable[[str], None] = print) -> dict:
    """Measure, print the table, and write ``volumes.json`` and ``volumes.md`` into ``plan.out``; returns what the former holds.

    The volumes themselves are kept in ``plan.out`` by preset, and made only where they are missing.

    Raises
    ------
    UnusableInput
        If fewer than three whole chests are found.
    """
    if plan.number < 2:
        raise UnusableInput("Volumes are compared in pairs; ask for at least 2 of each preset.")
    if not plan.cases and len(list(plan.data.glob("*/ct.nrrd"))) < FEWEST:
        raise UnusableInput(f"{plan.data} holds too few whole chests; the figures need at least three persons.")
    plan.out.mkdir(parents=True, exist_ok=True)
    for preset in plan.presets:  # before anything else is in memory, so that the peak that is told is theirs
        with suppress(UnusableInput):  # told below
            make(_cohort(plan, preset), plan.number, resume=True, say=report)
    real = _real(plan, report)
    rows = {"real": _figures(real, real, plan)}
    report(f"real: {len(real.cubes)} persons measured")
    for preset in plan.presets:
        try:
            group, facts = _drawn(plan, preset, report)
        except UnusableInput as error:
            report(f"note: {preset} is left out: {error}")
            continue
        rows[group.name] = _figures(group, real, plan) | facts | _audited(group, real, plan, preset)
        report(f"{group.name}: {len(group.cubes)} volumes measured")
        _keep(plan, rows)
    table = as_table(rows)
    _keep(plan, rows)
    report("\n" + table)
    return rows


def _keep(plan, rows):
    (plan.out / "volumes.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (plan.out / "volumes.md").write_text(as_table(rows) + "\n", encoding="utf-8")


def as_table(rows: dict[str, dict]) -> str:
    """Markdown: one line a source of volumes."""
    heads = ("source", "n", "IS ↑", "tissue score ↑", "Fréchet to real, pairs ↓", "Fréchet to real, pooled ↓ [95 %]", "slice change / real",
             "MS-SSIM of pairs", "copies", "by ratio", "s a volume", "peak MB")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, row in rows.items():
        pooled = row["pooled"]
        cells = (
            name, str(row["n"]), "-" if row["inception_score"] is None else _mean(row["inception_score"], ".2f"),
            f"{row['tissue_score']:.3f}", _mean(row["frechet"], ".1f"),
            f"{pooled['frechet']:.1f} [{pooled['low']:.1f}, {pooled['high']:.1f}]",
            f"{row['slice_change']:.2f}", _mean(row["ms_ssim"], ".3f"), _or_dash(row.get("copies"), ".0%"),
            _or_dash(row.get("ratio_copies"), ".0%"), _or_dash(row.get("seconds"), ".1f"), _or_dash(row.get("peak_mb"), ".0f"),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(figures, form):
    return " ± ".join(format(value, form) for value in figures)


def _or_dash(value, form):
    return "-" if value is None else format(value, form)


def _real(plan: VolumePlan, report) -> _Group:
    from ..training.chest_volumes import load_cubes

    folders = {}
    for name in plan.cases or [None]:
        folder = next((f for f in (plan.data / name, Path(name)) if (f / "ct.nrrd").is_file()), None) if name else None
        if name and folder is None:
            raise UnusableInput(f"There is no case '{name}' in {plan.data} (a folder with a ct.nrrd).")
        data = folder.parent if folder else plan.data
        others = {path.parent.name for path in data.glob("*/ct.nrrd")} - {folder.name} if folder else set()
        for cube in load_cubes(data, plan.out / "cases", SIDE, leave_out=tuple(others), report=report):
            folders[cube.name] = data / cube.name, cube
    if len(folders) < FEWEST:
        raise UnusableInput(f"Only {len(folders)} whole chests were found; the figures need at least three persons.")
    cubes = [Volume(cube.hu.numpy(), Geometry.from_spacing(cube.hu.shape, cube.spacing)) for _, cube in folders.values()]
    return _group(plan, "real", cubes, [folder / "ct.nrrd" for folder, _ in folders.values()], list(folders))


def _group(plan, name: str, cubes, files, cases) -> _Group:
    made = list(zip(cases, cubes, strict=True))
    return _Group(name, cubes, [slice_change(read_volume(file)) for file in files], [_features(plan, name, *one) for one in made],
                  [_tissues(plan, name, *one) for one in made], cases)  # fmt: skip


def _cohort(plan: VolumePlan, preset: str) -> Cohort:
    return Cohort(VolumeRequest(preset=preset, seed=plan.seed, device=plan.device), plan.out / load_card(preset).name)


def _drawn(plan: VolumePlan, preset: str, report) -> tuple[_Group, dict]:
    card, cohort = load_card(preset), _cohort(plan, preset)
    make(cohort, plan.number, resume=True, say=report)
    listed = json.loads((cohort.folder / "manifest.json").read_text(encoding="utf-8"))["volumes"][: plan.number]
    files = [cohort.folder / one["files"][0] for one in listed]
    names = [f"{card.sha256[:12]}-{one['number']}" for one in listed]
    group = _group(plan, card.name, [_cube(read_volume(file)) for file in files], files, names)
    peaks = [one["peak_mb"] for one in listed if one.get("peak_mb")]
    return group, {"seconds": float(np.median([one["seconds"] for one in listed])), "peak_mb": max(peaks) if peaks else None}


def _cube(volume: Volume) -> Volume:
    """A generated chest cropped in the plane to the square about its body, as the real ones are."""
    body = volume.array > BODY_HU
    spans = [np.flatnonzero(body.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    if not all(len(span) for span in spans):
        return volume
    step = volume.geometry.spacing
    margin = [int(5.0 / s) for s in step[1::-1]]
    first = [max(int(span[0]) - m, 0) for span, m in zip(spans, margin, strict=True)]
    last = [min(int(span[-1]) + 1 + m, n) for span, m, n in zip(spans, margin, body.shape[1:], strict=True)]
    array = volume.array[:, first[0] : last[0], first[1] : last[1]]
    side = max(array.shape[1:])
    pad = [((side - n) // 2, side - n - (side - n) // 2) for n in array.shape[1:]]
    array = np.pad(array, [(0, 0), *pad], constant_values=-1000)
    return Volume(array, Geometry.from_spacing(array.shape, step))


def _features(plan: VolumePlan, group: str, name: str, cube: Volume) -> np.ndarray:
    """Features (slices, d) of the axial slices, 10 mm apart, in order; kept, because they take a while."""
    kind = "inception-2048" if plan.inception else "segmenter"

    def made():
        return (inception_planes(cube, plan.inception, ("axial",)) if plan.inception else all_planes(cube, planes=("axial",)))["axial"]

    return _kept(plan.out / "features" / f"{group}-{name}-{kind}.npy", made)


def _tissues(plan: VolumePlan, group: str, name: str, cube: Volume) -> np.ndarray:
    return _kept(plan.out / "features" / f"{group}-{name}-tissues.npy", lambda: tissue_shares(cube))


def _kept(file: Path, made: Callable[[], np.ndarray]) -> np.ndarray:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, made())
        give_memory_back()  # the activations', which would add up
    return np.load(file)


def _figures(group: _Group, real: _Group, plan: VolumePlan) -> dict:
    rng = np.random.default_rng(plan.seed)
    itself = group is real
    pairs = list(combinations(range(len(real.cubes)), 2) if itself else product(range(len(group.cubes)), range(len(real.cubes))))
    chosen = [pairs[n] for n in rng.permutation(len(pairs))[:PAIRS]]
    own, others = reduced(group.features, real.features, min(map(len, (*group.features, *real.features))))
    distances = [frechet(own[a], others[b]) for a, b in chosen]
    half = sum(map(len, real.features)) // 2  # slices: distances of the same number alone may be compared
    pooled = real_against_real(real.features, n=half) if itself else frechet_interval(group.features, real.features, n=half)
    scores = [inception_score([cube], plan.inception) for cube in group.cubes] if plan.inception else None
    similar = pairwise([cube.array for cube in group.cubes], seed=plan.seed)
    return {
        "n": len(group.cubes), "features": "Inception v3" if plan.inception else "re-segmenter",
        "inception_score": [float(np.mean(scores)), float(np.std(scores))] if scores else None,
        "frechet": [float(np.mean(distances)), float(np.std(distances))], "pooled": pooled,
        "tissue_score": score_of(np.concatenate(group.tissues)),
        "slice_change": _change(group) / _change(real), "ms_ssim": [float(np.mean(similar)), float(np.std(similar))],
    }  # fmt: skip


def _change(group: _Group) -> float:
    """Median over the volumes whose slices are thin enough."""
    found = [change for change in group.changes if not np.isnan(change)]
    return float(np.median(found)) if found else float("nan")


def slice_change(volume: Volume) -> float:
    """Mean change in HU from slice to slice, 2.5 mm apart, inside the body; not a number where slices are thicker than that."""
    if volume.geometry.reordered(*volume.geometry.anatomical_axes).spacing[2] > SLICE_MM + 0.01:
        return float("nan")
    hu, *_ = on_working_grid(volume, SLICE_MM)
    return neighbour_change(hu, hu > BODY_HU)["k"]


def _audited(group: _Group, real: _Group, plan: VolumePlan, preset: str) -> dict:
    """Share of copies, by whichever similarity finds more, and both in full; nothing where the card names no person of ``real``."""
    told = " ".join(load_card(preset).training_data)
    trained = [name for name in real.cases if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", told)]
    scans = dict(zip(real.cases, real.cubes, strict=True))
    held_out = [cube for name, cube in scans.items() if name not in trained]
    if len(trained) < 2 or not held_out:
        return {"copies": None, "audit": None}
    training = [scans[name] for name in trained]
    found = audit(group.cubes, training, held_out, copied=[noisy(training[0], plan.seed), warped(training[0], plan.seed)])
    ratios = [one["ratio"]["copies"] for one in found.values() if one["ratio"]]
    return {"copies": max(one["copies"] for one in found.values()), "ratio_copies": max(ratios) if ratios else None, "audit": found}
