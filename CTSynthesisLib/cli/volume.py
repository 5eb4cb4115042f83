"""Make whole chest volumes from nothing: synthetic CTs, and their segmentations, for those who need many.

Volume number k depends on --seed and k alone, whatever -n is. DIR gets volume-0000.nrrd (or .nii.gz, or a folder of DICOM), with
--with-segmentation volume-0000.seg.nrrd beside it, a record volume-0000.json, and manifest.json, which lists them all. Under torchrun each
process takes its share of the numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import Interrupted, UnusableInput
from .progress import add_progress_flag, progress_of

FORMATS = ("nrrd", "nifti", "dicom")


def add_arguments(parser):
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the volumes")
    parser.add_argument("-n", "--number", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the cohort (default: 0)")
    parser.add_argument(
        "--preset", default="anatomy", metavar="NAME|FILE",
        help="anatomy: a label map is drawn and rendered; ctsgan2021: paper 004 as published; gan3d: its baseline (default: anatomy)",
    )  # fmt: skip
    parser.add_argument("--size", type=int, metavar="N", help="anatomy: voxels along each side (default: 224)")
    parser.add_argument("--nodules", type=int, default=0, metavar="N", help="anatomy: lung nodules in each volume (default: 0)")
    parser.add_argument("--with-segmentation", action="store_true", help="anatomy: also write the label map that each volume shows")
    parser.add_argument("--format", default="nrrd", metavar="|".join(FORMATS), help="of the volumes (default: nrrd)")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that holds some of the volumes")
    parser.add_argument("--model", default="default", metavar="NAME|FILE", help="anatomy: the model that renders (default: default)")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where the networks run (default: auto)")
    add_progress_flag(parser)


def run(args):
    from ..synthesis.cohort import Cohort, make
    from ..synthesis.ct_sgan import VolumeRequest

    if args.format not in FORMATS:
        raise UnusableInput(f"'{args.format}' is not a format; choose one of {', '.join(FORMATS)}.")
    if args.number < 1:
        raise UnusableInput(f"-n {args.number} makes no volumes; give at least 1.")
    request = VolumeRequest(
        preset=args.preset, seed=args.seed, size=args.size, nodules=args.nodules, renderer=args.model, device=args.device
    )  # fmt: skip
    cohort = Cohort(request, Path(args.output), args.format, args.with_segmentation)
    progress = progress_of(args)
    try:
        made, kept = make(
            cohort, args.number, resume=args.resume, progress=progress, say=lambda sentence: print(f"note: {sentence}", file=sys.stderr)
        )
    except KeyboardInterrupt:
        again = "the same command" if args.resume else "the same command with --resume"
        raise Interrupted(f"Interrupted; '{args.output}' keeps the volumes that were made, and {again} goes on from there.") from None
    print(f"{args.output}: {made} volumes made" + (f", {kept} were there already" if kept else "") + "; manifest.json lists them")
