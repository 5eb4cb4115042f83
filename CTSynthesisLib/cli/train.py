"""Train a model on a folder of CT volumes and segmentations.

PRESET is one of

  default            the model that ships
  completion         the network that fills in for it what a segmentation leaves open
  segmenter          the network that measures how faithful a CT is to its label map
  style_encoder      the network in whose features styles are compared
  anatomy            the model that draws whole chests for `volume`
  nodule-injector    the network that puts lung nodules in
  nodule-eraser      the one that takes them out; it learns on what the injector has put in
  jin2018            paper 004's nodule injector as Jin et al. have it: it sees the volume with its centre masked out, nothing else
  nodule-classifier  paper 004's 3D-SqueezeNet: does this lung hold a nodule?
  habijan2022        paper 000, exactly as published
  krishna2019        paper 001, exactly as published: one model for the style of one CT
  ctsgan2021         paper 004, exactly as published
  gan3d              the 3D GAN that paper 004 compares it with

DIR holds one folder a case with ct.nrrd and, where there are masks, segmentation.nrrd and labels.json; for habijan2022 also MM-WHS' own
files, for nodule-classifier LIDC-IDRI's or LUNA16's.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from signal import SIGINT

from ..errors import Interrupted, UnusableInput
from ..synthesis.request import DEVICES
from ..training.interruption import at_once, heard_by
from .outputs import refuse_inputs

PRESETS = ("default", "completion", "segmenter", "style_encoder", "anatomy", "nodule-injector", "nodule-eraser", "nodule-classifier",
           "jin2018", "habijan2022", "krishna2019", "ctsgan2021", "gan3d")  # fmt: skip
CONTINUED = ("default", "nodule-classifier")  # may begin with another model's weights
OF_KRISHNA = ("style", "style_segmentation", "vgg", "slices_per_case", "style_weight", "content_weight", "variation_weight")
NODULES = ("nodule-injector", "nodule-eraser")
PAPERS = ("habijan2022", "krishna2019")


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
        "--leave-out", nargs="+", default=[], metavar="CASE", help="cases not to train on, for a fair figure (not the papers' presets)"
    )
    parser.add_argument("--start-from", metavar="MODEL", help="default, nodule-classifier: begin with the weights of this model")
    parser.add_argument("--structure", metavar="NAME", help="habijan2022: one structure (LV ... PA) instead of the whole heart")
    style = parser.add_argument_group("krishna2019")
    style.add_argument("--style", metavar="CT", help="the CT whose style is learned: volume file or DICOM series folder")
    style.add_argument("--style-segmentation", metavar="SEG", help="its segmentation (default: the one beside it, or its tissue regions)")
    style.add_argument(
        "--vgg", metavar="FILE", help="torchvision's vgg19-dcbb9e9d.pth (default: $CTSYNTHESIS_VGG19, or the style encoder that ships)"
    )
    style.add_argument("--slices-per-case", type=int, metavar="N", help="training slices of each case (default: 2)")
    for name, what in (("style", "w_s"), ("content", "w_c"), ("variation", "w_tv")):
        style.add_argument(f"--{name}-weight", type=float, metavar="W", help=f"{what} of equation 8 (default: the preset's)")


def run(args):
    if args.preset not in PRESETS:
        raise UnusableInput(f"'{args.preset}' is not a preset; choose one of {', '.join(PRESETS)}.")
    if not Path(args.data).is_dir():
        raise UnusableInput(f"The data folder '{args.data}' does not exist; name a folder with one folder a case.")
    if args.device not in DEVICES:
        raise UnusableInput(f"'{args.device}' is not a device; choose one of {', '.join(DEVICES)}.")
    if args.preset in PAPERS and args.leave_out:
        raise UnusableInput(f"The preset {args.preset} knows no --leave-out; move the case out of the data folder.")
    if args.preset != "habijan2022" and args.structure:
        raise UnusableInput(f"--structure belongs to the preset habijan2022; {args.preset} knows every structure.")
    if args.preset not in CONTINUED and args.start_from:
        raise UnusableInput(f"--start-from belongs to the presets {' and '.join(CONTINUED)}; {args.preset} begins anew.")
    if args.preset == "krishna2019" and not args.style:
        raise UnusableInput("The preset krishna2019 learns the style of one scan; name it with --style CT.")
    own = {f"--{name.replace('_', '-')}": getattr(args, name) for name in OF_KRISHNA}
    if args.preset != "krishna2019" and (given := [flag for flag, value in own.items() if value is not None]):
        raise UnusableInput(f"{given[0]} belongs to the preset krishna2019; {args.preset} knows no style.")
    begun = Path(args.start_from).parent if args.start_from and Path(args.start_from).is_file() and not args.resume else None
    refuse_inputs(args.output, [args.data, args.style, begun])
    if args.preset == "krishna2019":
        from ..training.krishna2019 import train

        more = _krishna(args)
    elif args.preset == "habijan2022":
        from ..training.habijan2022 import train

        more = {"structure": args.structure} if args.structure else {}
    elif args.preset in NODULES:
        from ..training.nodule_gan import train

        more = {"leave_out": tuple(args.leave_out), "erase": args.preset == "nodule-eraser"}
    else:
        train = import_module(f"..training.{args.preset.replace('-', '_')}", __package__).train
        more = {"leave_out": tuple(args.leave_out)} | ({"start": args.start_from} if args.preset in CONTINUED else {})
    length = {"iterations": args.iterations, "minutes": args.minutes}
    try:
        with heard_by(at_once):
            train(Path(args.data), Path(args.output), **length, resume=args.resume, device=args.device, on_log=_say, **more)
    except KeyboardInterrupt as error:
        raise Interrupted(_way_on(args), getattr(error, "number", SIGINT)) from None
    print(f"The training's output is in {args.output}")


def _way_on(args) -> str:
    from ..training.loop import kept_iteration

    if (kept := kept_iteration(args.output)) is None:
        return f"Interrupted before anything was learned; '{args.output}' keeps what was prepared, and the same command begins again."
    again = "the same command" if args.resume else "the same command with --resume"
    return f"Interrupted; '{args.output}' keeps iteration {kept}, and {again} goes on from there."


def _krishna(args) -> dict:
    from ..training.krishna2019 import Krishna2019

    numbers = {name: getattr(args, name) for name in OF_KRISHNA[3:] if getattr(args, name) is not None}
    if negative := [name for name, value in numbers.items() if value < 0 or (name == "slices_per_case" and value < 1)]:
        raise UnusableInput(f"--{negative[0].replace('_', '-')} {numbers[negative[0]]} is not usable; give a positive number.")
    return {"style": args.style, "style_segmentation": args.style_segmentation, "imagenet": args.vgg, "preset": Krishna2019(**numbers)}


def _say(iteration, figures):
    if iteration % 20 == 0:
        print(f"{iteration:7d}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
