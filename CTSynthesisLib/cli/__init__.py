"""The command line: one file a command, the same words as the Python functions and the panel.

Exit code 0 on success, 2 for input that cannot be used, 130 when interrupted (143 by SIGTERM), 1 for the rest; then one sentence on stderr
says what is wrong and what to do.
Results go to stdout; notes on what was assumed go to stderr, one sentence a line.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from signal import SIGINT

from .. import __version__
from ..errors import Assumption, Interrupted, SynthesisFailed, UnusableInput
from ..synthesis.memory import prepare_process
from . import benchmark, demo, evaluate, generate, models, nodule, perturb, segment, structures, style, train, volume

COMMANDS = (demo, generate, structures, segment, perturb, style, volume, nodule, train, evaluate, benchmark, models)


def main(argv=None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks ± or █ shows ? instead of failing
    prepare_process()
    try:
        args = _parser().parse_args(arguments)
        with warnings.catch_warnings():
            if not debug:
                _quiet_libraries()
            _check_device(getattr(args, "device", "auto"))
            args.run(args)
        return 0
    except BrokenPipeError:  # the reader of stdout, for example `head`, has gone
        sys.stderr.close()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code, sentence = _explain(error)
        print(f"ctsynthesis: {sentence}", file=sys.stderr)
        return code


def _check_device(device: str) -> None:
    """Say at once, before anything is read or prepared, that a device is not there; what is no device at all, each command refuses."""
    if device in ("cuda", "mps"):
        from ..synthesis.mask_cgan import choose_device

        choose_device(device)


def note(read, sentences=()) -> None:
    """Tell the user what was assumed: while reading (a LabelMap or Volume that was ``read``), and then in further ``sentences``."""
    from ..files import NOTES

    for sentence in dict.fromkeys([*read.metadata.get(NOTES, "").splitlines(), *sentences]):  # each once
        print(f"note: {sentence}", file=sys.stderr)


def _explain(error) -> tuple[int, str]:
    """Exit code and the one sentence for an error."""
    if isinstance(error, UnusableInput):
        return 2, str(error)
    if isinstance(error, SynthesisFailed):
        return 1, str(error)
    if isinstance(error, Interrupted):
        return 128 + error.number, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + SIGINT, "Interrupted; nothing was written."
    if isinstance(error, MemoryError):
        return 1, "The memory of this machine does not suffice; close other programs, crop the segmentation or ask for coarser --spacing."
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename else ""
        return 1, f"The file{where} could not be read or written ({error.strerror}); check the folder, its permissions and the free space."
    if isinstance(error, ModuleNotFoundError):
        return 1, f"The Python package '{error.name}' is missing; install it, or run `make demo` once, which builds a complete environment."
    reason = " ".join(str(error).split())[:200]
    return 1, f"Unexpected {type(error).__name__} ({reason}); run the command again with --debug and report what it prints."


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=32)


class _Parser(argparse.ArgumentParser):
    """Reports a usage error as one sentence, like any other unusable input."""

    def error(self, message):
        hint = f"'{self.prog} --help' shows how it is used."
        raise UnusableInput(f"{message[:1].upper()}{message[1:].rstrip('.')}; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ctsynthesis", description="Synthetic CT volumes from organ segmentations.", formatter_class=_Help, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"CTSynthesis {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=_Help, allow_abbrev=False
        )
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error, and the libraries' warnings")
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def _quiet_libraries():
    """Keep the readers' own warnings off the screen; what matters is said in our own sentences, as notes."""
    import SimpleITK as sitk

    warnings.simplefilter("ignore")
    warnings.simplefilter("always", Assumption)
    warnings.showwarning = lambda message, *where: print(f"note: {message}", file=sys.stderr)  # until catch_warnings ends
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
