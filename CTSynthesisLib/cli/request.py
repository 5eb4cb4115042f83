"""The flags that make a Request, derived from its fields, so that the two cannot drift apart."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path

from ..errors import UnusableInput
from ..synthesis import request as request_module
from ..synthesis.request import Request

CHOICES = {"phase": request_module.PHASES, "inside": request_module.INSIDE, "outside": request_module.OUTSIDE,
           "device": request_module.DEVICES, "kernel": ("soft", "sharp")}  # fmt: skip
UNITS = {"noise": "HU", "sharpness": "0-1.5", "thickness": "MM", "slice_correlation": "0-1", "seed": "N", "model": "NAME|FILE",
         "hu": "NAME=HU"}  # fmt: skip


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of :class:`Request` that a person may set, with the field's documentation as help."""
    group = parser.add_argument_group("request")
    texts = _documentation()
    for field in fields(Request):
        if field.name == "grain":  # five numbers that only --match knows
            continue
        metavar = UNITS.get(field.name) or "|".join(CHOICES[field.name])
        if field.name == "hu":
            group.add_argument("--hu", nargs="+", action="extend", default=[], metavar=metavar, help=texts["hu"])
            continue
        kind = {"int": int, "float": float}.get(field.type.split(" | ")[0], str)
        default = "" if field.default is None else f" (default: {field.default})"
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, type=kind, default=field.default, metavar=metavar, help=texts[field.name] + default)


def request_from(args: argparse.Namespace) -> Request:
    values = {field.name: getattr(args, field.name) for field in fields(Request) if hasattr(args, field.name)}
    return Request(**{**values, "hu": hounsfield_overrides(args.hu)})


def hounsfield_overrides(pairs) -> dict[str, float] | None:
    """``["liver=110", ...]`` as a dict, None when there are none."""
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        try:
            overrides[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name or not -1024 <= overrides[name] <= 3071:
            raise UnusableInput(f"'--hu {pair}' is not a Hounsfield value; write a name and a value from -1024 to 3071, as in liver=110.")
    return overrides or None


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        metavar="TABLE|SEGMENT=STRUCTURE",
        help="label table (JSON or CSV: value and name) of a label map, and corrections of how segments were understood, "
        "as in --labels Segment_1=heart",
    )


def labels_from(args: argparse.Namespace) -> tuple[Path | None, dict[str, str] | None]:
    """The label table's path and the corrections, each None when not given."""
    table, names = None, {}
    for item in args.labels:
        segment, equals, structure = item.partition("=")
        if equals and not Path(item).exists():
            names[segment.strip()] = structure.strip()
        elif table is None:
            table = Path(item)
        else:
            raise UnusableInput(f"Two label tables were given ('{table}' and '{item}'); a segmentation has one.")
    return table, names or None


def _documentation() -> dict[str, str]:
    """The text below each attribute in Request's docstring."""
    texts = re.findall(r"^    (\w+) : .*\n((?:        .+\n)+)", Request.__doc__, flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "").replace("%", "%%") for name, text in texts}
