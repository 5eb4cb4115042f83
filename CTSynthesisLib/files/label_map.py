"""Label maps: one image whose integers are labels, with or without a table that names them."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput
from ..volume import LabelMap, Segment
from .label_table import find_label_table, read_label_table, stem_of

_MMWHS_MISPRINT = 421  # in a few voxels of the published data, where 420 (left atrium) is meant
_MOST_LABELS = 1000  # more different values than that are an image, not labels
# How far a label may lie from a whole number: NIfTI scales labels up to 850 to the 65536 values of 16 bits, 0.006 off at most. Partial
# volumes, which are no labels, lie at every distance.
_OFF = 0.02
_WORTH_TELLING = 1e-6  # below it is the rounding of the arithmetic


def labelmap_from(array, geometry, path, labels=None, metadata=None):
    """Return ``(labelmap, notes)`` from the voxels of ``path`` and its table (``labels``, else one found in or beside it).

    Of a table that names more than the image shows, what fits is used.

    Raises
    ------
    UnusableInput
        If the voxels are not labels, or the table names no value that a voxel has.
    """
    array, notes = whole_numbers(array, path)
    if (low := int(array.min())) < 0:
        raise UnusableInput(f"{path} holds negative values (down to {low}), so it is an image rather than a label map; give labels.")
    present = _present(array) - {0}
    if len(present) > _MOST_LABELS:
        raise UnusableInput(f"{path} holds {len(present)} different values, so it is an image rather than a label map; give labels.")
    table, more = _named(path, present, labels)
    if table and (unnamed := sorted(present - set(table))):
        more += (f"Labels without a name in the table: {_shortened([str(value) for value in unnamed])}.",)
    segments = tuple(table.get(value) or Segment(value, f"Label {value}") for value in sorted(present))
    return LabelMap.from_labels(array, geometry, segments, metadata), notes + more


def whole_numbers(array, path):
    """``(array, notes)``: the labels in ``array`` as integers, where a header's scale or a float type has made them slightly uneven.

    Raises
    ------
    UnusableInput
        If a value is further than 0.02 from a whole number, or does not fit in 32 bits, or has overflown signed 8 bits.
    """
    notes = ()
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is off
            off = np.max([np.abs(part - np.rint(part)).max() for part in array])
        if not off <= _OFF:
            raise UnusableInput(f"{path} holds values that are not whole numbers, so it is no label map; give a segmentation.")
        if off > _WORTH_TELLING:
            notes = (f"The labels are stored up to {off:.1g} away from whole numbers and were rounded to them.",)
        array = np.rint(array)
    low, high = float(array.min()), float(array.max())
    if low < 0 and array.dtype == np.int8:
        raise UnusableInput(
            f"{path} holds negative labels (down to {low:g}): it is stored in signed 8 bits (int8), where labels above 127 overflow; "
            "save it again with unsigned 8 or with 16 bits."
        )
    if high >= 1 << 31 or low < -(1 << 31):
        raise UnusableInput(f"{path} holds label values from {low:g} to {high:g}; renumber them below {1 << 31}.")
    if array.dtype.kind not in "iu" or array.dtype.itemsize > 4 or high < 1 << 16:
        array = array.astype(np.uint16 if low >= 0 and high < 1 << 16 else np.int32, copy=False)
    return array, notes


def smallest_type(labels):
    """``labels`` in the smallest integers that hold them and that every reader knows."""
    largest = int(labels.max())
    return labels.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.int32, copy=False)


def _present(array) -> set[int]:
    if array.dtype == np.uint16:
        return set(np.flatnonzero(np.bincount(array.ravel())).tolist())  # much quicker than sorting the voxels
    return set(np.unique(array).tolist())


def _named(path, present, labels):
    """``(segments by value, notes)`` of a given table, of one found, or of what the values or the file's name say."""
    found = (read_label_table(labels), str(labels)) if labels is not None else find_label_table(path)
    if found:
        table, source = found
        absent = sorted(set(table) - present)
        if present and len(absent) == len(table):
            listed = _listed(table, absent)
            raise UnusableInput(f"The label table {source} names {listed}, but none of them is in {path}; correct it or give another.")
        notes = (f"The names of the labels come from {source}.",) if labels is None else ()
        if absent:
            notes += (f"Named in the label table but not in the image: {_listed(table, absent)}.",)
        return table, notes
    mmwhs = _mmwhs()
    if len(present) >= 3 and present <= set(mmwhs):
        notes = ("The labels have the values of MM-WHS and were named after it.",)
        if _MMWHS_MISPRINT in present:
            notes += (f"Label {_MMWHS_MISPRINT}, a known misprint of MM-WHS for 420, was taken for the left atrium.",)
        return mmwhs, notes
    if len(present) == 1 and (name := _structure_in(stem_of(path))):
        return {value: Segment(value, name) for value in present}, (f"The one label was named after the file: {name}.",)
    return {}, ("No label table was given or found, so the labels are named by their values.",) if present else ()


def _listed(table, values):
    return _shortened([f"{value} ({table[value].name})" for value in values])


def _shortened(words):
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _mmwhs():
    from ..anatomy import label_table

    return {value: Segment(value, name) for value, name in label_table("mmwhs").items()}


def _structure_in(stem):
    """The ``stem`` of a file's name where it names a structure, as TotalSegmentator's single files do (``heart.nii.gz``); else None."""
    from ..anatomy import understand

    (one,) = understand([Segment(1, stem)])
    return stem if one.how != "not understood" else None
