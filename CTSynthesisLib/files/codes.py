"""Coded concepts as files hold them: 3D Slicer's terminology entries and DICOM's code sequences.

A code is ``(scheme designator, value, meaning)``, for example ``("SCT", "10200004", "Liver")``.
"""

from __future__ import annotations

# 3D Slicer gives this code to every segment that nobody has named a structure for: it says nothing
UNSPECIFIED = ("SCT", "85756007")

ANATOMICAL_STRUCTURE = ("SCT", "123037004", "Anatomical Structure")
TISSUE = ("SCT", "85756007", "Tissue")
ALTERED_STRUCTURE = ("SCT", "49755003", "Morphologically Altered Structure")

# types that 3D Slicer's General Anatomy list and DICOM's CID 7150 keep in another category than Anatomical Structure
_TISSUES = {"85756007", "272673000", "71616004", "248300009", "39937001", "51114001", "29092000", "91727004", "3898006"}
_ALTERED = {"4147007", "108369006", "27925004", "52988006", "416939005", "86049000", "79654002", "41699000", "12402003"}


def category_of(code):
    """The category (Segmented Property Category) that a type ``code`` belongs to."""
    return TISSUE if code[1] in _TISSUES else ALTERED_STRUCTURE if code[1] in _ALTERED else ANATOMICAL_STRUCTURE


def modern(code):
    """``code`` with a retired SNOMED-RT value (SRT, T-62000) replaced by its SNOMED CT value, and None where it says nothing."""
    if code is None or not code[1]:
        return None
    scheme, value, meaning = code
    if scheme in ("SRT", "SNM3", "99SDM"):
        from pydicom.sr._snomed_dict import mapping

        if value in mapping["SRT"]:
            scheme, value = "SCT", mapping["SRT"][value]
    return None if (scheme, value) == UNSPECIFIED else (scheme, value, meaning)


def parse_terminology(entry):
    """``(code, modifier)`` of a 3D Slicer terminology entry ``context~category~type~modifier~region context~region~region modifier``."""
    parts = entry.split("~")
    triples = [tuple(part.split("^")) for part in parts[2:4]]
    code, modifier = (modern(t) if len(t) == 3 else None for t in (triples + [(), ()])[:2])
    return code, modifier


def format_terminology(code, modifier=None):
    """The 3D Slicer terminology entry that states ``code`` and ``modifier``."""

    def triple(concept):
        return "^".join("".join(" " if c in "~^|" else c for c in part) for part in concept or ("", "", ""))

    return "~".join((
        "Segmentation category and type - 3D Slicer General Anatomy list",
        triple(category_of(code)), triple(code), triple(modifier),
        "Anatomic codes - DICOM master list", triple(None), triple(None),
    ))  # fmt: skip
