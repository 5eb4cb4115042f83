"""What the values of a label map mean: a table given by the user, lying beside the file, or held by it.

JSON: ``{"1": "liver"}``, ``{"liver": 1}``, ``[{"value": 1, "name": "liver", "hu": 110}]``, or one of these under ``"labels"``, as in
nnU-Net's ``dataset.json``; there a name may stand for several values (a region), and names those that have no name of their own.
CSV: a header line with ``value`` and ``name`` (``code``, ``color`` and ``hu`` are optional).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ..errors import UnusableInput
from ..volume import Segment
from . import nifti

_WAY_OUT = 'write JSON such as {"1": "liver"} or a CSV with the columns value and name'


def read_label_table(path) -> dict[int, Segment]:
    """Read a table; the background (value 0) is left out.

    Raises
    ------
    UnusableInput
        If the file is missing or not a table.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _csv_rows(text) if path.suffix.lower() in (".csv", ".tsv", ".txt") else _json_rows(json.loads(text))
        segments = [_segment(row) for row in rows]
    except OSError as error:
        raise UnusableInput(f"The label table {path} cannot be read ({error.strerror}); check its name.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnusableInput(f"{path} is not a label table; {_WAY_OUT}.") from error
    values = [segment.value for segment in segments]
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise UnusableInput(f"The label table {path} gives the value {repeated[0]} twice; give each value one name.")
    if any(value < 0 for value in values) or not any(values):
        raise UnusableInput(f"{path} is not a label table with values above 0; {_WAY_OUT}.")
    return {segment.value: segment for segment in segments if segment.value}


def find_label_table(path: Path):
    """``(table, where it comes from)`` for a label map ``path``, or None.

    It is ``<stem>.json`` or ``<stem>.csv`` beside it, else the table that the file itself holds (NIfTI), else ``labels.json`` or
    ``labels.csv`` beside it. A ``<stem>.json`` that is no table (a BIDS side-car, say) is passed over.
    """
    *own, json_of_all, csv_of_all = could_name(path)
    for candidate in own:
        if candidate.is_file():
            try:
                return read_label_table(candidate), f"{candidate.name}, found beside the label map"
            except UnusableInput:
                continue
    if held := nifti.label_names(path):
        return {value: Segment(value, name) for value, name in held.items()}, "the label table in the header of the file"
    for candidate in (json_of_all, csv_of_all):
        if candidate.is_file():
            return read_label_table(candidate), f"{candidate.name}, found beside the label map"
    return None


def could_name(path: Path) -> tuple[Path, Path, Path, Path]:
    """Where a table for the label map ``path`` is looked for: two places for its own, two for that of all label maps beside it."""
    stem = stem_of(path)
    return tuple(path.parent / name for name in (f"{stem}.json", f"{stem}.csv", "labels.json", "labels.csv"))


def stem_of(path: Path) -> str:
    """The name of a file without its ending(s): ``heart`` of ``heart.nii.gz``."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _csv_rows(text):
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = max(",;\t", key=lines[0].count)
    return [{key.strip().lower(): value for key, value in row.items() if key} for row in csv.DictReader(lines, delimiter=delimiter)]


def _json_rows(content):
    if isinstance(content, dict) and isinstance(content.get("labels"), (dict, list)):
        content = content["labels"]
    if isinstance(content, list):
        return content
    if all(key.strip().lstrip("-").isdigit() for key in content):
        return [{"value": value, "name": name} for value, name in content.items()]
    rows = [{"value": value, "name": name} for name, value in content.items() if not isinstance(value, list)]
    regions = sorted(((value, name) for name, value in content.items() if isinstance(value, list)), key=lambda region: len(region[0]))
    named = {row["value"] for row in rows}
    for values, name in regions:  # the smallest first: the tumor's core is named after itself, not after the whole tumor
        rows += [{"value": value, "name": name} for value in dict.fromkeys(values) if value not in named]
        named.update(values)
    return rows


def _segment(row):
    value = next((row[key] for key in ("value", "label", "id", "index") if key in row), None)
    name = row["name"]
    if isinstance(value, (bool, float)) or not isinstance(name, str) or not name.strip():
        raise ValueError("a value is an integer and a name a word")
    code, color = row.get("code") or None, row.get("color") or None
    if isinstance(code, str):  # in a CSV: SCT^10200004^Liver
        code = code.split("^")
    if isinstance(color, str):  # in a CSV: 0.8 0.4 0.2
        color = color.split()
    if (code and len(code) != 3) or (color and len(color) != 3):
        raise ValueError("a code and a color have three parts")
    hu = row.get("hu")
    return Segment(
        int(value),
        name.strip(),
        code=tuple(str(part) for part in code) if code else None,
        color=tuple(float(part) for part in color) if color else None,
        hu=float(hu) if hu not in (None, "") else None,
    )
