"""Measure a model on real scans: Hounsfield values, texture, coherence, fidelity and distribution, beside baselines and ceilings.

Each case is a folder with ct.nrrd and, where there are masks, segmentation.nrrd and labels.json. The output folder gets evaluation.json,
evaluation.md, pictures, and the volumes themselves; started again with the same arguments, the command goes on where it was broken off.
The pictures show real persons: choose an output folder that is not published.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIGINT

from ..errors import Interrupted, UnusableInput
from ..synthesis.request import DEVICES
from .outputs import refuse_inputs

CONDITIONS = ("contours", "regions", "half", "lone", "body")
MODES = ("given", "blind")
ROWS = ("model", "per_slice", "spectrum", "white", "mean", "nearest", "real")


def add_arguments(parser):
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of cases")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for figures, table, volumes and pictures")
    parser.add_argument("--model", default="default", metavar="NAME|FILE", help="model to measure (default: default)")
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE", help="names in the data folder, or paths (default: all of them)")
    parser.add_argument("--training", metavar="DIR", help="folder of the other real persons (default: what --cases leaves of --data)")
    choices = (("conditions", CONDITIONS, "what is told of a case"), ("modes", MODES, "whether HU, noise, kernel and thickness are told"),
               ("rows", ROWS, "methods and ceilings"))  # fmt: skip
    for name, known, what in choices:
        parser.add_argument(f"--{name}", nargs="+", default=list(known), metavar="NAME", help=f"{what}: {', '.join(known)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the model and the noise (default: 0)")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="where the network runs (default: auto)")
    parser.add_argument("--audit", action="store_true", help="also compare the model's volumes with all training scans: does it copy?")
    parser.add_argument("--style", action="store_true", help="measure organ-wise style instead: each case in the style of each")
    parser.add_argument("--volumes", action="store_true", help="measure volumes from nothing instead, beside the real chests of the data")
    parser.add_argument(
        "--presets", nargs="+", default=[], metavar="NAME|FILE", help="--volumes: models of `volume` (default: those that ship)"
    )  # fmt: skip
    parser.add_argument("-n", "--number", type=int, default=8, metavar="N", help="--volumes: how many of each preset (default: 8)")
    parser.add_argument("--slices", type=int, default=16, metavar="N", help="--style: slices of each content (default: 16)")
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="--style: also the slow path, so many steps (default: 0)")
    parser.add_argument("--inception", metavar="FILE", help="weights of the usual Inception network, for its Fréchet distance")
    question = "Do synthetic volumes help to train a nodule classifier? --cases are the persons held out."
    nodules = parser.add_argument_group("--nodules", question)
    add = nodules.add_argument
    add("--nodules", action="store_true", help="run the nodule experiment of paper 004 instead (docs/nodule-experiment.md)")
    add("--synthetic", metavar="DIR", help="synthetic volumes, for two of the three arms (default: the arm of real scans alone)")
    add("--leave-out", nargs="+", default=[], metavar="CASE", help="scans not to use at all, for instance with unmarked tumours")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each arm (default: 3)")
    add("--samples", type=int, nargs=3, default=[200, 600, 90], metavar=("REAL", "SYNTHETIC", "TEST"),
        help="samples to train on, real and synthetic, and to test each size on (default: 200 600 90)")  # fmt: skip
    add("--iterations", type=int, nargs=2, default=[400, 150], metavar=("TRAIN", "TUNE"), help="of training (default: 400 150)")
    add("--whole", action="store_true", help="whole chests of 224³ voxels, as in the paper, instead of volumes of interest")
    add("--halves", default="places", metavar="places|scans",
        help="what is halved against device bias: places in each scan, or scans, as in the paper (default: places)")  # fmt: skip


def run(args):
    try:
        _run(args)
    except KeyboardInterrupt as error:
        kept = "nothing was written" if args.style else f"'{args.output}' keeps what was measured, and the same command goes on from there"
        raise Interrupted(f"Interrupted; {kept}.", getattr(error, "number", SIGINT)) from None


def _run(args):
    from ..evaluation.evaluate import Plan, evaluate

    for flag, folder in (("--data", args.data), ("--training", args.training)):
        if folder and not Path(folder).is_dir():
            raise UnusableInput(f"The folder '{folder}' of {flag} does not exist; name a folder with one folder a case.")
    if args.inception and not Path(args.inception).is_file():
        raise UnusableInput(f"There is no file '{args.inception}'; --inception takes the weights of the usual Inception network.")
    if args.device not in DEVICES:
        raise UnusableInput(f"'{args.device}' is not a device; choose one of {', '.join(DEVICES)}.")
    out = Path(args.output)
    refuse_inputs(out, [args.data, args.training, args.synthetic, *(Path(args.data) / case for case in args.cases)])
    if args.style:
        _style(args, out)
        return
    if args.volumes:
        _volumes(args, out)
        return
    if args.nodules:
        _nodules(args, out)
        return
    plan = Plan(
        data=Path(args.data), out=out, model=args.model, cases=tuple(args.cases), conditions=tuple(args.conditions),
        modes=tuple(args.modes), rows=tuple(args.rows), seed=args.seed, training=Path(args.training) if args.training else None,
        inception=Path(args.inception) if args.inception else None, audit=args.audit, device=args.device,
    )  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableInput(f"'{out}' cannot be made a folder ({error.strerror}); name a new one, or an earlier evaluation's.") from error
    if _would_be_committed(out):
        print(f"note: {out} lies in a git repository that does not ignore it, and its pictures show real persons; do not commit them.",
              file=sys.stderr)  # fmt: skip
    evaluate(plan, report=lambda line: print(line, file=sys.stderr if line.startswith("note: ") else sys.stdout, flush=True))
    print(f"\n{out / 'evaluation.md'}: the table; {out / 'evaluation.json'}: every figure; {out / 'pictures'}: real above synthetic")


def _style(args, out: Path):
    from ..evaluation.style_evaluation import StylePlan, evaluate_style

    if args.slices < 6:
        raise UnusableInput(f"--slices {args.slices} are too few to measure; give at least 6.")
    plan = StylePlan(Path(args.data), out, tuple(args.cases), args.slices, args.refine, args.seed, args.device)
    evaluate_style(plan, report=lambda line: print(line, flush=True))
    print(f"\n{out / 'style.json'}: every figure")


def _volumes(args, out: Path):
    from ..evaluation.volume_evaluation import VolumePlan, evaluate_volumes
    from ..synthesis.ct_sgan import PRESETS

    plan = VolumePlan(
        Path(args.data), out, tuple(args.presets or PRESETS), tuple(args.cases), args.number, args.seed,
        Path(args.inception) if args.inception else None, args.device,
    )  # fmt: skip
    evaluate_volumes(plan, report=lambda line: print(line, file=sys.stderr if line.startswith("note: ") else sys.stdout, flush=True))
    print(f"\n{out / 'volumes.md'}: the table; {out / 'volumes.json'}: every figure")


def _nodules(args, out: Path):
    from ..evaluation.nodule_experiment import NodulePlan, run_experiment
    from ..training.nodule_classifier import NoduleClassifierRecipe
    from ..training.nodule_samples import WHOLE_CHEST, Sampling

    if args.synthetic and not Path(args.synthetic).is_dir():
        raise UnusableInput(f"The folder '{args.synthetic}' of --synthetic does not exist; name a folder of synthetic volumes.")
    if min(args.seeds, *args.samples, *args.iterations) < 1:
        raise UnusableInput("--seeds, --samples and --iterations are whole numbers from 1 on.")
    real, synthetic, test = args.samples
    iterations, tuning = args.iterations
    sampling = WHOLE_CHEST if args.whole else Sampling(halves=args.halves)
    plan = NodulePlan(
        data=Path(args.data), out=out, synthetic=Path(args.synthetic) if args.synthetic else None, held_out=tuple(args.cases),
        leave_out=tuple(args.leave_out), seeds=args.seeds, real_samples=real, synthetic_samples=synthetic, test_samples=test,
        sampling=sampling, recipe=NoduleClassifierRecipe(iterations=iterations), fine_tuning=tuning, seed=args.seed, device=args.device,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    run_experiment(plan, report=lambda line: print(line, file=sys.stderr if line.startswith("note: ") else sys.stdout, flush=True))
    print(f"\n{out / 'nodules.md'}: the tables; {out / 'nodules.json'}: every figure")


def _would_be_committed(folder: Path) -> bool:
    """Whether git would offer to commit a file in ``folder``; False where there is no git."""
    if not shutil.which("git"):
        return False
    ignored = subprocess.run(["git", "check-ignore", "-q", "a.png"], cwd=folder, capture_output=True, check=False)
    return ignored.returncode == 1  # 0: ignored; 128: no repository
