"""What a generated volume holds, structure by structure, against what was expected of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from ..volume import LabelMap, Volume

TOLERANCE_HU = 25.0  # a structure's median may be off by this or by twice its expected spread, whichever is more


@dataclass(frozen=True)
class Row:
    """One segment of the report; HU values are NaN where the segment has no voxel.

    Attributes
    ----------
    segment, structure : the user's name, and what it was understood as
    how : by what it was understood (``code``, ``name``, ``synonym``, ``user``, ``not understood``)
    volume_ml : millilitres
    expected_hu, expected_sd : what the anatomy table (or the user) says
    mean_hu, median_hu, sd_hu : measured in the volume
    off : whether the median is further from the expected value than :data:`TOLERANCE_HU` and twice the expected spread
    """

    segment: str
    structure: str
    how: str
    volume_ml: float
    expected_hu: float
    expected_sd: float
    mean_hu: float
    median_hu: float
    sd_hu: float
    off: bool


def per_structure(volume: Volume, labelmap: LabelMap, understood) -> tuple[Row, ...]:
    """Measure every segment of ``labelmap`` in ``volume`` (same grid); ``understood`` comes from ``anatomy.understand``."""
    if volume.array.shape != labelmap.array.shape:
        raise ValueError("the segmentation and the volume are on different grids")
    order = np.argsort(labelmap.array, axis=None, kind="stable")  # once, instead of one mask for each of up to a hundred segments
    labels = labelmap.array.ravel()[order]
    hounsfield = volume.array.ravel()[order]
    rows = []
    for item in understood:
        value = item.segment.value
        inside = hounsfield[slice(*np.searchsorted(labels, [value, value + 1]))]
        mean, median, sd = (float(f(inside)) for f in (np.mean, np.median, np.std)) if inside.size else (np.nan,) * 3
        off = bool(inside.size) and abs(median - item.mean_hu) > max(TOLERANCE_HU, 2 * item.sd_hu)
        rows.append(
            Row(
                segment=item.segment.name,
                structure=item.structure.name,
                how=item.how,
                volume_ml=inside.size * labelmap.geometry.voxel_ml,
                expected_hu=float(item.mean_hu),
                expected_sd=float(item.sd_hu),
                mean_hu=mean,
                median_hu=median,
                sd_hu=sd,
                off=off,
            )
        )
    return tuple(rows)


def as_text(rows, at_most: int | None = None) -> str:
    """The report as a table for a terminal: all rows, or the ``at_most`` largest structures and every one that is off."""
    rows, everything = list(rows), len(rows)
    if at_most is not None and everything > at_most:
        least = sorted((row.volume_ml for row in rows), reverse=True)[at_most - 1]
        rows = [row for row in rows if row.volume_ml >= least or row.off]
    names = [row.segment if row.segment == row.structure else f"{row.segment} ({row.structure})" for row in rows]
    wide = max([len("structure"), *map(len, names)])
    lines = [f"{'structure':<{wide}}  {'volume':>9}  {'expected HU':>12}  {'mean':>6}  {'median':>6}  {'sd':>5}"]
    lines.append("-" * len(lines[0]))
    for name, row in zip(names, rows, strict=True):
        expected = f"{row.expected_hu:.0f} ± {row.expected_sd:.0f}"
        line = f"{name:<{wide}}  {row.volume_ml:>6.{0 if row.volume_ml >= 10 else 1}f} ml  {expected:>12}"
        if row.volume_ml == 0:
            lines.append(line + "  (no voxel on this grid)")
        else:
            lines.append(f"{line}  {row.mean_hu:>6.0f}  {row.median_hu:>6.0f}  {row.sd_hu:>5.0f}{'  off' if row.off else ''}")
    if len(rows) < everything:
        lines.append(f"and {everything - len(rows)} smaller structures, none of them off")
    return "\n".join(lines)


def as_json(rows, **facts) -> str:
    """The report and further ``facts`` of the run as JSON; what could not be measured is null."""
    structures = [{key: _plain(value) for key, value in asdict(row).items()} for row in rows]
    return json.dumps({**facts, "structures": structures}, indent=2, allow_nan=False) + "\n"


def _plain(value):
    if isinstance(value, float):
        return round(value, 3) if np.isfinite(value) else None
    return value
