"""Make a new anatomy from a segmentation by displacing its borders.

The displacement is smooth, random and bounded; each segment keeps its number of parts, tunnels and cavities.
"""

from __future__ import annotations

from . import request as flags
from .generate import INPUT_HELP
from .outputs import Outputs
from .segment import SEGMENTATION_ENDINGS


def add_arguments(parser):
    parser.add_argument("segmentation", metavar="SEGMENTATION", help=INPUT_HELP)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=".seg.nrrd, or a label map as .nrrd, .nii(.gz), .mha")
    parser.add_argument("--by", type=float, required=True, metavar="MM", help="largest displacement in mm, from 0 to 30")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses the displacement (default: 0)")
    flags.add_label_arguments(parser)


def run(args):
    from ..files import read_segmentation, write_segmentation
    from ..synthesis.perturb import perturb
    from . import note

    table, _ = flags.labels_from(args)
    labelmap = read_segmentation(args.segmentation, labels=table)
    with Outputs(args.segmentation, table) as outputs:
        path = outputs.file(args.output, SEGMENTATION_ENDINGS)
        result = perturb(labelmap, args.by, seed=args.seed)
        write_segmentation(result, path)
    note(labelmap)
    print(f"{'segment':<32} {'ml before':>10} {'ml after':>10} {'Dice':>6}")
    for segment in labelmap.segments:
        before, after = labelmap.mask(segment), result.mask(segment)
        if before.any():
            dice = 2 * (before & after).sum() / (before.sum() + after.sum())
            ml = labelmap.geometry.voxel_ml
            print(f"{segment.name:<32} {before.sum() * ml:10.1f} {after.sum() * ml:10.1f} {dice:6.3f}")
