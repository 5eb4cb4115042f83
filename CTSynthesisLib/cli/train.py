"""Train a model on a folder of CT volumes and segmentations.

PRESET is `default` (the model that ships), `completion` (the network that fills in for it what a segmentation leaves open),
`segmenter` (the network that measures how faithful a CT is to its label map) or `habijan2022` (paper 000, exactly as published).
DIR holds one folder a case with ct.nrrd and, where there are masks, segmentation.nrrd and labels.json; for habijan2022 also MM-WHS'
own files.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..errors import UnusableInput
from ..synthesis.request import DEVICES

PRESETS = ("default", "completion", "segmenter", "habijan2022")


def add_arguments(parser):
    parser.add_argument("preset", metavar="PRESET", help="|".join(PRESETS))
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of cases")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for checkpoints, curves, samples and the model")
    parser.add_argument("--resume", action="store_true", help="continue the training in the output folder")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to train (default: auto)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes")
    length.add_argument("--iterations", type=int, metavar="N", help="stop after N iterations (default: the preset's)")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="CASE", help="cases not to train on, for a fair figure (not habijan2022)"
    )
    parser.add_argument("--start-from", metavar="MODEL", help="default: begin with the weights of this model")
    parser.add_argument("--structure", metavar="NAME", help="habijan2022: one structure (LV ... PA) instead of the whole heart")


def run(args):
    if args.preset not in PRESETS:
        raise UnusableInput(f"'{args.preset}' is not a preset; choose one of {', '.join(PRESETS)}.")
    if not Path(args.data).is_dir():
        raise UnusableInput(f"The data folder '{args.data}' does not exist; name a folder with one folder a case.")
    if args.device not in DEVICES:
        raise UnusableInput(f"'{args.device}' is not a device; choose one of {', '.join(DEVICES)}.")
    if args.preset == "habijan2022" and args.leave_out:
        raise UnusableInput("The preset habijan2022 knows no --leave-out; move the case out of the data folder.")
    if args.preset != "habijan2022" and args.structure:
        raise UnusableInput(f"--structure belongs to the preset habijan2022; {args.preset} knows every structure.")
    if args.preset != "default" and args.start_from:
        raise UnusableInput(f"--start-from belongs to the preset default; {args.preset} begins anew.")
    if args.preset == "habijan2022":
        from ..training.habijan2022 import train

        more = {"structure": args.structure} if args.structure else {}
    else:
        train = import_module(f"..training.{args.preset}", __package__).train
        more = {"leave_out": tuple(args.leave_out)} | ({"start": args.start_from} if args.preset == "default" else {})
    length = {"iterations": args.iterations, "minutes": args.minutes}
    train(Path(args.data), Path(args.output), **length, resume=args.resume, device=args.device, on_log=_say, **more)
    print(f"The training's output is in {args.output}")


def _say(iteration, figures):
    if iteration % 20 == 0:
        print(f"{iteration:7d}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
