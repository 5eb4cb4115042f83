"""Label maps: one image whose integers are labels, with or without a table that names them."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput
from ..volume import LabelMap, Segment
from .label_table import find_label_table, read_label_table

MMWHS_VALUES = frozenset((205, 420, 500, 550, 600, 820, 850))
_MOST_LABELS = 1000  # more different values than that are an image, not labels


def labelmap_from(array, geometry, path, labels=None, metadata=None):
    """Return ``(labelmap, notes)`` from the voxels of ``path`` and its table (``labels``, else one found beside).

    Raises
    ------
    UnusableInput
        If the voxels are not labels, or the table names values that no voxel has.
    """
    array = _integers(array, path)
    present = set(np.unique(array).tolist()) - {0}
    if len(present) > _MOST_LABELS:
        raise UnusableInput(f"{path} holds {len(present)} different values, so it is an image rather than a label map; give labels.")
    notes = ()
    if labels is not None:
        table, source = read_label_table(labels), labels
        if absent := sorted(set(table) - present):
            listed = _listed(table, absent)
            raise UnusableInput(f"The label table {source} names {listed}, which no voxel of {path} has; remove what is not there.")
    elif found := find_label_table(path):
        source, table = found
        absent = sorted(set(table) - present)
        if present and len(absent) == len(table):
            listed = _listed(table, absent)
            raise UnusableInput(f"The label table {source} names {listed}, but none of them is in {path}; correct it or give another.")
        notes += (f"The names of the labels come from {source.name}, found beside the label map.",)
        if absent:
            notes += (f"Named in {source.name} but not in the image: {_listed(table, absent)}.",)
    elif len(present) >= 3 and present <= MMWHS_VALUES:
        table = _mmwhs()
        notes += ("The labels have the values of MM-WHS and were named after it.",)
    else:
        table = {}
        if present:
            notes += ("No label table was given or found, so the labels are named by their values.",)
    if table and (unnamed := sorted(present - set(table))):
        notes += (f"Labels without a name in the table: {', '.join(str(value) for value in unnamed)}.",)
    segments = tuple(table.get(value) or Segment(value, f"Label {value}") for value in sorted(present))
    return LabelMap(array, geometry, segments, metadata or {}), notes


def _integers(array, path):
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):  # NaN equals nothing, infinity overflows below
        raise UnusableInput(f"{path} holds values that are not whole numbers, so it is no label map; give a segmentation.")
    low, high = float(array.min()), float(array.max())
    if low < 0:
        raise UnusableInput(f"{path} holds negative values (down to {low:g}), so it is an image rather than a label map; give labels.")
    if high >= 1 << 31:
        raise UnusableInput(f"{path} holds label values up to {high:g}; renumber them below 65536.")
    return array.astype(np.uint16 if high < 1 << 16 else np.int32, copy=False)


def _listed(table, values):
    words = [f"{value} ({table[value].name})" for value in values[:5]]
    return ", ".join(words) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _mmwhs():
    from ..anatomy import label_table

    return {value: Segment(value, name) for value, name in label_table("mmwhs").items()}
