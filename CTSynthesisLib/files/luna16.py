"""Reading the tables of the LUNA16 challenge: ``annotations.csv`` (nodules) and ``candidates.csv`` (places, some of them nodules)."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnusableInput

_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ")


@dataclass(frozen=True)
class Finding:
    """A place in a scan: a nodule with its diameter, or a candidate that is a nodule or is none."""

    series_uid: str
    centre_ras: tuple[float, float, float]  # mm; the file's own coordinates are LPS
    diameter_mm: float | None = None  # candidates have none
    is_nodule: bool = True


def read_luna16(path) -> dict[str, list[Finding]]:
    """Findings by series UID from ``annotations.csv`` (column ``diameter_mm``) or ``candidates.csv`` (column ``class``, 1 or 0).

    Raises
    ------
    UnusableInput
        If the file is missing, lacks a column, or a line holds something other than numbers.
    """
    path = Path(path)
    findings: dict[str, list[Finding]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            kind = next((name for name in ("diameter_mm", "class") if name in columns), None)
            if kind is None or any(name not in columns for name in _COLUMNS):
                raise UnusableInput(
                    f"{path} is not a table of LUNA16; its first line names seriesuid, coordX, coordY, coordZ and diameter_mm or class."
                )
            for row in reader:
                finding = _finding(row, kind, path, reader.line_num)
                findings.setdefault(finding.series_uid, []).append(finding)
    except FileNotFoundError:
        raise UnusableInput(f"There is no file {path}; check its name.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableInput(f"{path} cannot be read as a table ({error}); download or copy it again.") from error
    return findings


def _finding(row, kind, path, line) -> Finding:
    try:
        x, y, z, value = (float(row[name]) for name in (*_COLUMNS[1:], kind))
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"Line {line} of {path} holds something other than numbers; download or copy the table again.") from error
    usable = all(map(math.isfinite, (x, y, z, value))) and (value > 0 if kind == "diameter_mm" else value in (0, 1)) and row["seriesuid"]
    if not usable:
        raise UnusableInput(f"Line {line} of {path} is not a finding of LUNA16 ({kind} {row[kind]}); download or copy the table again.")
    if kind == "class":
        return Finding(row["seriesuid"], (-x, -y, z), is_nodule=value == 1)
    return Finding(row["seriesuid"], (-x, -y, z), diameter_mm=value)
