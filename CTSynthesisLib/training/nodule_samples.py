"""Samples of the nodule experiment: volumes of interest (or whole chests) with and without a nodule, from scans, free of device bias.

Paper 004, section 3.1 and figure 3a: half of the scans that have nodules lose them to an eraser, half of those that have none get some from
an injector. Else the classifier would learn which scanner it sees. ``Sampling.halves`` says what is halved: ``scans``, as in the paper, or
``places``, so that every scan gives as many samples with as without a nodule; a dozen scans cannot be halved without one scan, one answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import UnusableInput
from ..files.beside import written_beside
from ..synthesis.nodule_shape import EDGES, KINDS, Nodule, random_count
from ..volume import Geometry, Volume, resample
from .nodule_scans import Lesion, Lungs, Scan, find_lungs

HALVES = ("places", "scans")
MADE = ("kept", "erased", "injected", "clean")  # kept, injected: with a nodule; erased, clean: without
KIND_SHARES = (0.75, 0.10, 0.15)  # solid, part-solid, ground-glass: assumed; most of LIDC's nodules are rated solid
LARGEST_MM = 30.0  # beyond it a marked lesion is a mass, not a nodule
MARGIN_MM = 4.0  # around a sample, for its interpolation
REACH_MM = 45.0  # around a nodule, for what an injector or eraser looks at
PLACES = 20000  # of a scan's lungs that are kept
HU_RANGE = (-1000.0, 400.0)  # becomes [0, 1] (section 4.2); lung and soft tissue, the window of nodule detection

Inject = Callable[[Volume, tuple[float, float, float], Nodule], Volume]  # a part of a scan, the centre in RAS mm, what to put there
Erase = Callable[[Volume, tuple[float, float, float], float], Volume]  # a part of a scan, the centre, the diameter in mm of what goes


@dataclass(frozen=True)
class Sampling:
    """``voxels`` a side, ``spacing`` mm. A nodule lies up to ``shift`` mm from the middle along each axis; ``whole`` samples have their
    middle in that of the lungs and as many nodules as LIDC's scans have (paper 004: 224 voxels, whole chests)."""

    voxels: int = 24
    spacing: float = 2.0
    shift: float = 6.0
    halves: str = "places"
    whole: bool = False
    repeats: int = 12  # samples of each marked nodule, shifted and mirrored anew

    def __post_init__(self):
        if self.halves not in HALVES:
            raise UnusableInput(f"'{self.halves}' cannot be halved; choose one of {', '.join(HALVES)}.")


WHOLE_CHEST = Sampling(voxels=224, spacing=1.5, halves="scans", whole=True)  # as in the paper


@dataclass(frozen=True)
class Place:
    """Where something is injected (``nodule``) or erased (``erase_mm``); RAS mm."""

    centre: tuple[float, float, float]
    nodule: Nodule | None = None
    erase_mm: float = 0.0


@dataclass(frozen=True)
class Sample:
    scan: str
    made: str  # one of MADE
    centre: tuple[float, float, float]  # of the sample's grid, RAS mm
    places: tuple[Place, ...] = ()

    @property
    def label(self) -> int:
        return int(self.made in ("kept", "injected"))


@dataclass(frozen=True, eq=False)
class Chest:
    """A scan with its lungs found."""

    scan: Scan
    lungs: Lungs


def load_chests(scans: Sequence[Scan], cache: Path, report=print) -> list[Chest]:
    """The scans that show lungs, which are found once and kept in ``cache``; the others are told to ``report``."""
    cache.mkdir(parents=True, exist_ok=True)
    chests = []
    for scan in scans:
        kept = cache / f"{scan.name}.npy"
        if not kept.exists():
            try:
                lungs = find_lungs(scan.read())
            except UnusableInput as error:
                report(f"note: {scan.name} is left out: {error}")
                continue
            places = np.zeros((0, 3), np.float32) if lungs is None else lungs.places
            if len(places) > PLACES:
                places = places[np.sort(np.random.default_rng(0).permutation(len(places))[:PLACES])]
            with written_beside(kept) as part, open(part, "wb") as file:
                np.save(file, places)
        if len(places := np.load(kept)):
            chests.append(Chest(scan, Lungs(places)))
        else:
            report(f"note: {scan.name} is left out: no lungs were found in it.")
    return chests


def plan(
    chests: Sequence[Chest], count: int, sampling: Sampling, *, diameters: Sequence[float], seed: int, marked: bool = True
) -> list[Sample]:
    """About ``count`` samples, half of them with a nodule, and within each scan (or among the scans of each sort) half as well.

    Parameters
    ----------
    diameters : sequence of float
        mm; what is injected has one of them, each as often as the next.
    marked : bool
        Whether nodules that people marked are taken too, kept and erased; at most half of the samples are of them.
    """
    rng = np.random.default_rng((seed, 17))
    if not chests:
        raise UnusableInput("No scan with lungs is left to take samples from; give chest CT.")
    samples = marked_samples(chests, sampling, seed=seed)[: count // 2] if marked else []
    by_places = sampling.halves == "places" and not sampling.whole
    clear = [chest for chest in chests if not chest.scan.lesions or (by_places and len(_free(chest, sampling)))]
    if not clear:
        return samples
    half = _with_nodule([chest.scan for chest in clear], rng)
    left = count - len(samples)
    diameters = list(rng.permutation(np.resize(np.asarray(diameters, float), left)))
    for n in range(left):
        if by_places:
            chest, injected = clear[(n // 2) % len(clear)], n % 2 == 0
        else:
            chest = clear[n % len(clear)]
            injected = half[chest.scan.name]
        samples.append(_own(chest, injected, float(diameters[n]), sampling, rng))
    return samples


def _with_nodule(scans, rng) -> dict[str, bool]:
    """Which half of the scans is to have nodules (figure 3a)."""
    order = rng.permutation(len(scans))
    return {scans[n].name: rank < len(scans) / 2 for rank, n in enumerate(order)}


def marked_samples(chests: Sequence[Chest], sampling: Sampling, *, seed: int) -> list[Sample]:
    """Samples of the nodules that people marked, half of them kept, half erased; masses beyond 30 mm are passed over."""
    rng = np.random.default_rng((seed, 19))
    chests = [chest for chest in chests if nodules_of(chest.scan)]
    half = _with_nodule([chest.scan for chest in chests], rng)
    if sampling.whole:
        return [_whole(chest, keep=half[chest.scan.name]) for chest in chests]
    samples = []
    for repeat in range(sampling.repeats):
        for chest in chests:
            for n, lesion in enumerate(nodules_of(chest.scan)):
                keep = half[chest.scan.name] if sampling.halves == "scans" else (repeat + n) % 2 == 0
                samples.append(_of_lesion(chest.scan.name, lesion, keep, sampling, rng))
    return samples


def _whole(chest: Chest, *, keep: bool) -> Sample:
    """A whole chest with all its marked nodules, or without any."""
    places = tuple(Place(one.centre, erase_mm=one.diameter_mm) for one in nodules_of(chest.scan))
    return Sample(chest.scan.name, "kept" if keep else "erased", _point(chest.lungs.centre), () if keep else places)


def nodules_of(scan: Scan) -> list[Lesion]:
    """What people marked in ``scan``, without masses beyond 30 mm."""
    return [lesion for lesion in scan.lesions if lesion.diameter_mm <= LARGEST_MM]


def _of_lesion(name, lesion: Lesion, keep: bool, sampling, rng) -> Sample:
    centre = _point(np.add(lesion.centre, rng.uniform(-sampling.shift, sampling.shift, 3)))
    return Sample(name, "kept" if keep else "erased", centre, () if keep else (Place(lesion.centre, erase_mm=lesion.diameter_mm),))


def _own(chest: Chest, injected: bool, diameter: float, sampling, rng) -> Sample:
    """A sample at places of our own in a scan's lungs."""
    free = _free(chest, sampling)
    count = random_count(int(rng.integers(2**31))) if sampling.whole else 1
    points = [_point(free[rng.integers(len(free))]) for _ in range(count)]
    middle = chest.lungs.centre if sampling.whole else np.add(points[0], rng.uniform(-sampling.shift, sampling.shift, 3))
    nodules = [_nodule(diameter, rng) for _ in points]
    places = tuple(Place(point, nodule) for point, nodule in zip(points, nodules, strict=True)) if injected else ()
    return Sample(chest.scan.name, "injected" if injected else "clean", _point(middle), places)


def _free(chest: Chest, sampling: Sampling) -> np.ndarray:
    """Places whose samples hold nothing of what people marked."""
    free = chest.lungs.places
    for lesion in chest.scan.lesions:
        reach = sampling.voxels * sampling.spacing / 2 + sampling.shift + 0.6 * lesion.diameter_mm
        free = free[np.abs(free - np.array(lesion.centre, np.float32)).max(1) > reach]
    return free


def _nodule(diameter, rng) -> Nodule:
    kind, edge = KINDS[rng.choice(len(KINDS), p=KIND_SHARES)], EDGES[rng.integers(len(EDGES))]
    return Nodule(diameter, kind, edge, int(rng.integers(2**31)))


def _point(values) -> tuple[float, float, float]:
    return tuple(round(float(n), 3) for n in values)


def cut(samples: Sequence[Sample], chests: Sequence[Chest], sampling: Sampling, file: Path, *, inject: Inject, erase: Erase, made_by: str,
        report=print) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """``(voxels, labels)`` of the samples.

    Voxels are int16 HU (n, voxels, voxels, voxels), an array in ``file`` that is not loaded into memory. Labels are 1 with a nodule, 0
    without, and -1 where injector or eraser refused, which ``report`` is told. Each scan is read once. What is there already from the same
    samples (and ``made_by``, which names injector and eraser) is not cut again.
    """
    key = {"samples": json.loads(json.dumps([asdict(s) for s in samples])), "sampling": asdict(sampling), "made_by": made_by}
    noted = file.with_suffix(".json")
    labels = np.array([sample.label for sample in samples])
    known = json.loads(noted.read_text(encoding="utf-8")) if file.exists() and noted.exists() else {}
    if {name: known.get(name) for name in key} == key:
        labels[known["refused"]] = -1
        return np.load(file, mmap_mode="r"), labels
    scans = {chest.scan.name: chest.scan for chest in chests}
    file.parent.mkdir(parents=True, exist_ok=True)
    noted.unlink(missing_ok=True)  # it would speak of other samples, were this broken off
    with written_beside(file) as part:
        array = np.lib.format.open_memmap(part, "w+", np.int16, (len(samples), *(sampling.voxels,) * 3))
        for name in dict.fromkeys(sample.scan for sample in samples):
            report(f"cutting samples from {name}")
            volume = scans[name].read()
            for n, sample in enumerate(samples):
                if sample.scan == name:
                    try:
                        array[n] = one_sample(sample, volume, sampling, inject, erase)
                    except UnusableInput as error:
                        labels[n] = -1
                        report(f"note: a sample of {name} is left out: {error}")
        array.flush()
        del array
    with written_beside(noted) as part:
        part.write_text(json.dumps(key | {"refused": np.flatnonzero(labels < 0).tolist()}), encoding="utf-8")
    return np.load(file, mmap_mode="r"), labels


def one_sample(sample: Sample, volume: Volume, sampling: Sampling, inject: Inject, erase: Erase) -> np.ndarray:
    """The voxels of one sample: something is put in or taken out on the scan's own grid, then it is brought to the sample's."""
    half = sampling.voxels * sampling.spacing / 2
    part = _part(volume, sample.centre, half + MARGIN_MM)
    for place in sample.places:
        near = _part(volume, place.centre, REACH_MM + 2 * place.erase_mm)
        near = inject(near, place.centre, place.nodule) if place.nodule else erase(near, place.centre, place.erase_mm)
        part = _pasted(part, near)
    corner = np.array(sample.centre) + half * np.array([1, 1, -1]) + sampling.spacing / 2 * np.array([-1, -1, 1])
    grid = Geometry.from_spacing((sampling.voxels,) * 3, (sampling.spacing,) * 3, corner)
    return resample(part.array, part.geometry, grid, outside=-1024)


def _part(volume: Volume, centre, reach: float) -> Volume:
    """What of ``volume`` lies within ``reach`` mm of ``centre`` along its axes; at least one voxel."""
    ijk = np.linalg.solve(volume.geometry.ijk_to_ras, [*centre, 1.0])[:3]
    steps = reach / volume.geometry.spacing
    size = np.array(volume.geometry.shape)
    low = np.clip(np.floor(ijk - steps)[::-1], 0, size - 1).astype(int)
    high = np.clip(np.ceil(ijk + steps)[::-1] + 1, low + 1, size).astype(int)
    array = np.ascontiguousarray(volume.array[tuple(map(slice, low, high))])
    return Volume(array, volume.geometry.crop(low, array.shape))


def _pasted(whole: Volume, part: Volume) -> Volume:
    """``part``, a crop of the same grid as ``whole``, written into it where they overlap."""
    begin = np.rint(np.linalg.solve(whole.geometry.ijk_to_ras, [*part.geometry.origin, 1.0])[2::-1]).astype(int)
    low, high = np.maximum(begin, 0), np.minimum(begin + part.array.shape, whole.array.shape)
    array = whole.array.copy()
    if (high > low).all():
        array[tuple(map(slice, low, high))] = part.array[tuple(map(slice, low - begin, high - begin))]
    return Volume(array, whole.geometry)
