"""Measure speed, memory, determinism and start-up on this machine.

From label map to Hounsfield array on the bundled segmentation, each size in a fresh process: 64 to 512 slices of 256 x 256 voxels, one of
them once more beside another process that keeps a processor busy.
"""

from __future__ import annotations

from ..errors import UnusableInput
from .outputs import Outputs


def add_arguments(parser):
    parser.add_argument("-o", "--output", metavar="FILE.json", help="also write the figures as JSON")
    parser.add_argument("--model", default="default", metavar="NAME|FILE", help="model to measure (default: default)")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where the network runs (default: auto)")
    parser.add_argument("--slices", default="64,128,256,512", metavar="N,N,...", help="numbers of slices (default: 64,128,256,512)")
    parser.add_argument("--in-plane", type=int, default=256, metavar="N", help="rows and columns (default: 256)")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs that have to be identical (default: 20)")


def run(args):
    from ..evaluation.benchmark import as_json, as_text, measure
    from ..synthesis.request import Request

    request = Request(model=args.model, device=args.device)
    slices = _numbers(args.slices)
    if args.in_plane not in range(32, 1025) or args.runs < 1:
        raise UnusableInput("Give --in-plane from 32 to 1024 and --runs of at least 1.")
    with Outputs(args.model) as outputs:
        path = outputs.file(args.output, (".json",)) if args.output else None
        figures = measure(request, slices=slices, in_plane=args.in_plane, runs=args.runs, say=lambda line: print(line, flush=True))
        if path:
            path.write_text(as_json(figures), encoding="utf-8")
    print("\n" + as_text(figures))


def _numbers(text):
    parts = text.split(",")
    if not all(part.strip().isdigit() and 8 <= int(part) <= 4096 for part in parts):
        raise UnusableInput(f"'--slices {text}' is not a list of numbers from 8 to 4096; write them as in --slices 64,128.")
    return [int(part) for part in parts]
