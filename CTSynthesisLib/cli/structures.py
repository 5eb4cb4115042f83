"""Show how each segment of a segmentation was understood.

By its code, its name, a synonym, your correction, or not at all; with the tissue and the Hounsfield value it will get.
"""

from __future__ import annotations

import json

import numpy as np

from . import request as flags
from .generate import INPUT_HELP


def add_arguments(parser):
    parser.add_argument("segmentation", metavar="SEGMENTATION", help=INPUT_HELP)
    flags.add_label_arguments(parser)
    parser.add_argument("--hu", nargs="+", action="extend", default=[], metavar="NAME=HU", help="Hounsfield values of your own")
    parser.add_argument("--phase", default="plain", metavar="plain|arterial|portal", help="contrast phase (default: plain)")
    parser.add_argument("--reference", metavar="CT", help="series that an RTSTRUCT was drawn on")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args):
    from ..anatomy import understand
    from ..files import read_segmentation
    from ..synthesis.request import Request
    from . import note

    request = Request(phase=args.phase, hu=flags.hounsfield_overrides(args.hu))  # checks both
    table, names = flags.labels_from(args)
    labelmap = read_segmentation(args.segmentation, labels=table, reference=args.reference)
    understood = understand(labelmap.segments, phase=request.phase, names=names, hu=request.hu)
    counts = np.bincount(labelmap.array.ravel(), minlength=max(segment.value for segment in labelmap.segments) + 1)
    records = [
        {
            "value": item.segment.label,
            "segment": item.segment.name,
            "structure": item.structure.name,
            "understood by": item.how,
            "tissue": item.structure.tissue.value,
            "HU": f"{item.mean_hu:.0f} ± {item.sd_hu:.0f}",
            "volume": f"{counts[item.segment.value] * labelmap.geometry.voxel_ml:.1f} ml",
        }
        for item in understood
    ]
    print(json.dumps(records, indent=2, ensure_ascii=False) if args.json else _table(records))
    note(labelmap, [item.note for item in understood if item.note])


def _table(records):
    columns = list(records[0])
    wide = [max(len(column), *(len(str(record[column])) for record in records)) for column in columns]
    right = {"value", "HU", "volume"}

    def line(cells):
        return "  ".join(f"{c:>{w}}" if name in right else f"{c:<{w}}" for name, c, w in zip(columns, cells, wide, strict=True)).rstrip()

    return "\n".join([line(columns), "-" * (sum(wide) + 2 * (len(wide) - 1)), *(line(record.values()) for record in records)])
