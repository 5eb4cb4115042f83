"""Put lung nodules into a CT, or take them out.

Each nodule is worked on in its own volume of interest; all other voxels keep their values. Injected nodules are also written as segments
beside the CT, so that the result is an annotated case. Coordinates I,J,K are voxel indices.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..errors import UnusableInput
from .generate import INPUT_HELP
from .outputs import VOLUME_ENDINGS, Outputs
from .progress import add_progress_flag, progress_of
from .segment import SEGMENTATION_ENDINGS

KINDS, EDGES = ("solid", "part-solid", "ground-glass"), ("smooth", "lobulated", "spiculated")
DEFAULT_MM = 8.0
LIDC = "lidc"  # --random without a number


def add_arguments(parser):
    parser.add_argument("what", metavar="inject|erase", help="put nodules in, or take them out")
    parser.add_argument("ct", metavar="CT", help="volume file or DICOM series folder")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="volume to write: " + ", ".join(VOLUME_ENDINGS))
    place = parser.add_argument_group("place (one of)")
    place.add_argument("--at", metavar="I,J,K", action="append", default=[], help="voxel in a nodule's middle; may be given several times")
    place.add_argument("--mask", metavar="SEG", help="each connected part of a segmentation is a nodule: " + INPUT_HELP)
    place.add_argument(
        "--random", metavar="N", nargs="?", const=LIDC,
        help="inject N nodules at random places in the lungs; without N, as many as scans of LIDC have",
    )  # fmt: skip
    parser.add_argument(
        "--diameter", type=float, metavar="MM",
        help=f"3 to 30 mm (default: {DEFAULT_MM:g}; with --random as in LIDC, with --mask of the same volume; erase: grown from the place)",
    )  # fmt: skip
    parser.add_argument("--type", default="solid", metavar="TYPE", help="|".join(KINDS) + " (default: solid)")
    parser.add_argument("--edge", default="smooth", metavar="EDGE", help="|".join(EDGES) + " (default: smooth)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses shape, places and grain (default: 0)")
    parser.add_argument("--model", metavar="NAME|FILE", help="another injector or eraser (default: the one that ships)")
    parser.add_argument("--anywhere", action="store_true", help="also outside the lungs, and in a CT without any")
    parser.add_argument("--segmentation", metavar="SEG", help="where the nodules' segments go (default: beside OUT, .nodules.seg.nrrd)")
    parser.add_argument("--preview", metavar="FILE.png", help="also write a picture: each nodule before and after in three planes")
    add_progress_flag(parser)


def run(args):
    from ..files import read_volume, write_segmentation, write_volume
    from . import note

    _check(args)
    started = time.perf_counter()
    progress = progress_of(args) or (lambda fraction, stage: None)
    volume = read_volume(args.ct)
    _check_voxels(args, volume)
    from ..synthesis import nodules as engine  # torch: only now

    with Outputs(args.ct, args.mask, args.model) as outputs:
        path = outputs.volume(args.output)
        beside = args.segmentation or (_beside(args.output) if args.what == "inject" else None)
        segments = outputs.file(beside, SEGMENTATION_ENDINGS) if beside else None
        picture = outputs.file(args.preview, (".png",)) if args.preview else None
        progress(0.05, "finding the lungs")
        labels = _lungs(volume, args)

        def working(fraction, stage):
            progress(0.4 + 0.5 * fraction, stage)

        if args.what == "inject":
            placed = _placed(args, volume, labels)
            made = engine.inject(volume, placed, labels, seed=args.seed, injector=args.model or engine.INJECTOR, progress=working)
        else:
            masks = _masks(args, volume, labels)
            made = engine.erase(volume, masks, labels, seed=args.seed, eraser=args.model or engine.ERASER, progress=working)
        progress(0.92, "writing")
        write_volume(made.volume, path)
        if segments:
            write_segmentation(made.segmentation, segments)
        if picture:
            from ..evaluation.nodule_picture import nodule_picture

            nodule_picture(volume, made, picture)
        progress(1.0, "done")
    note(volume, made.notes)
    _report(args, made, beside, time.perf_counter() - started)


def _check(args):
    from ..synthesis.nodule_shape import Nodule

    if args.what not in ("inject", "erase"):
        raise UnusableInput(f"'nodule {args.what}' is not known; write `nodule inject` or `nodule erase`.")
    if sum(map(bool, (args.at, args.mask, args.random))) != 1:
        raise UnusableInput("Say where the nodules are, in one way: --at I,J,K, --mask SEG or --random N.")
    if args.what == "erase" and args.random:
        raise UnusableInput("Nodules to erase are not looked for; give their places with --at I,J,K or their outlines with --mask SEG.")
    Nodule(DEFAULT_MM if args.diameter is None else args.diameter, args.type, args.edge)
    if args.random and args.random != LIDC:
        _count(args.random)
    for text in args.at:
        _voxel(text)


def _check_voxels(args, volume):
    for text in args.at:
        if not all(-0.5 <= a < n - 0.5 for a, n in zip(_voxel(text), volume.array.shape, strict=True)):
            last = ",".join(str(n - 1) for n in volume.array.shape[::-1])
            raise UnusableInput(f"Voxel {text} lies outside the volume, whose last voxel is {last}; give I,J,K within it.")


def _lungs(volume, args):
    from ..synthesis.nodule_places import lungs_of

    return None if args.anywhere and not args.random else lungs_of(volume)


def _placed(args, volume, labels):
    """The nodules and their centres (k, j, i)."""
    import numpy as np

    from ..synthesis.nodule_places import random_places
    from ..synthesis.nodule_shape import LARGEST_MM, SMALLEST_MM, Nodule, random_count, random_diameters

    if args.mask:
        places, sizes = [], []
        for mask in _masks(args, volume, labels):
            where = np.argwhere(mask)
            places.append(tuple(where.mean(0)))
            sizes.append(float(np.clip((len(where) * volume.geometry.voxel_ml * 6000 / np.pi) ** (1 / 3), SMALLEST_MM, LARGEST_MM)))
    elif args.at:
        places, sizes = [_voxel(text) for text in args.at], [DEFAULT_MM] * len(args.at)
    else:
        count = random_count(args.seed) if args.random == LIDC else _count(args.random)
        places, sizes = None, random_diameters(count, args.seed).tolist()
    nodules = [Nodule(args.diameter or size, args.type, args.edge, args.seed + n) for n, size in enumerate(sizes)]
    return list(zip(nodules, places or random_places(labels, volume.geometry.spacing, nodules, args.seed), strict=True))


def _masks(args, volume, labels):
    """What is to be erased, as bool arrays (k, j, i)."""
    from ..files import read_segmentation
    from ..synthesis.nodule_places import VALUE, grown, masks_of
    from ..synthesis.style_reference import on_grid_of

    if args.mask:
        drawn, _ = on_grid_of(volume.geometry, read_segmentation(args.mask, reference=args.ct), "the CT")
        return masks_of(drawn)
    import numpy as np

    regions = np.full(volume.array.shape, VALUE["lungs"], np.uint8) if labels is None else labels
    return [grown(volume.array, regions, volume.geometry, _voxel(text), args.diameter) for text in args.at]


def _voxel(text):
    """``"12,34,5"`` → (5.0, 34.0, 12.0): from I,J,K to the arrays' order."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise UnusableInput(f"'--at {text}' is not a voxel; write three numbers, as in --at 120,88,40.")
    return tuple(numbers[::-1])


def _count(text):
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise UnusableInput(f"'--random {text}' is not a number of nodules; give one from 1 to 100, or none to draw it as LIDC has it.")
    return int(text)


def _beside(output):
    name = Path(output).name
    for ending in sorted(VOLUME_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return str(Path(output).with_name(name[: -len(ending)] + ".nodules.seg.nrrd"))
    return output + ".nodules.seg.nrrd"


def _report(args, made, beside, seconds):
    facts = json.loads(made.volume.metadata["CTSynthesis.Nodules"])[-1]
    for number, one in enumerate(facts["injected" if args.what == "inject" else "erased"], start=1):
        place = "I,J,K " + ",".join(f"{a:g}" for a in one["at_ijk"])
        what = f"{one['diameter_mm']:g} mm, {one['kind']}, {one['edge']}" if args.what == "inject" else f"{one['ml']:g} ml"
        print(f"{number:3d}  {place:<24} {what}")
    print(f"\n{args.output}{f' and {beside}' if beside else ''}: {facts['model']}, {seconds:.1f} s")
