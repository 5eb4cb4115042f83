"""How a command tells how far it is."""

from __future__ import annotations

import json
import sys


def add_progress_flag(parser):
    parser.add_argument("--tell-progress", action="store_true", help="write progress as lines of JSON to stderr, for other programs")


def progress_of(args):
    """The callback (fraction, stage) that the command's flag asks for; None when nobody would see it."""
    return _tell if args.tell_progress else progress_line()


def progress_line():
    """A callback that rewrites one line on the terminal; None when stderr is not one."""
    if not sys.stderr.isatty():
        return None

    def show(fraction, stage):
        print(f"\r\033[K{'█' * round(24 * fraction):░<24} {100 * fraction:3.0f} %  {stage}", end="", file=sys.stderr, flush=True)
        if fraction >= 1:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    return show


def _tell(fraction, stage):
    print(json.dumps({"fraction": round(float(fraction), 4), "stage": stage}), file=sys.stderr, flush=True)
