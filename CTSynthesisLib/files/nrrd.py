"""NRRD, written here so that geometry keeps full precision and every failure of the disk is noticed. SimpleITK reads it.

Strings (provenance) become ``key:=value`` fields, which 3D Slicer reads as node attributes.
"""

from __future__ import annotations

import re

import SimpleITK as sitk

from ..errors import UnusableInput
from ..volume import geometry_of
from .deflate import write_deflated

_TYPES = {
    "u1": "unsigned char", "i1": "signed char", "i2": "short", "u2": "unsigned short", "i4": "int", "u4": "unsigned int",
    "f4": "float", "f8": "double",
}  # fmt: skip
_NOT_METADATA = re.compile(r"^(ITK_|NRRD_)")


def write_nrrd(path, array, geometry, metadata=None):
    """Write ``array`` (k, j, i) gzip-compressed in LPS, with ``metadata`` as key/value fields."""
    lps = geometry.to_lps()
    vectors = [",".join(repr(float(x)) for x in lps[:3, column]) for column in range(4)]
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_TYPES[array.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: {2} {1} {0}".format(*geometry.shape),
        "space directions: ({}) ({}) ({})".format(*vectors[:3]),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({vectors[3]})",
    ]
    for key, value in (metadata or {}).items():
        lines.append("{}:={}".format(key, str(value).replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")))
    with open(path, "wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        write_deflated(file, array, 31)


def read_with_itk(path):
    """Return ``(array, geometry, metadata, notes)`` of an image that ITK reads; ``array`` is (k, j, i) or (k, j, i, component).

    Raises
    ------
    UnusableInput
        If the file cannot be read, is not three-dimensional, or states a spacing that is no number.
    """
    notes = _check_header(path) if path.suffix.lower() in (".nrrd", ".nhdr") else ()
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UnusableInput(f"{path} {_reason(str(error))}.") from error
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        size = " x ".join(str(n) for n in image.GetSize())
        raise UnusableInput(f"{path} is not a three-dimensional image (its size is {size}); save one volume from it.")
    metadata = {}
    for key in image.GetMetaDataKeys():
        if not _NOT_METADATA.match(key):
            try:
                metadata[key] = image.GetMetaData(key)
            except UnicodeDecodeError:
                metadata[key] = ""
    return sitk.GetArrayFromImage(image), geometry_of(image), metadata, notes


def _check_header(path):
    """What ITK does not say in words of its own; returns notes.

    Without a spacing, or with a NaN, it takes 1 mm: the first is told, the second refused. A voxel file that is missing it calls damage.
    """
    with open(path, "rb") as file:
        header = re.split(rb"\r?\n\r?\n", file.read(1 << 20), maxsplit=1)[0].decode("utf-8", "surrogateescape")
    fields = dict(re.findall(r"(?m)^([a-z ]+): *(.*?)\r?$", header))
    if detached := fields.get("data file", fields.get("datafile")):
        check_voxel_files(path, detached, header.splitlines())
    spacing = fields.get("space directions", fields.get("spacings"))
    if spacing is None and header.startswith("NRRD"):
        return ("The file states no voxel spacing; 1 mm was assumed.",)
    axes = re.findall(r"\([^)]*\)|\S+", (spacing or "").lower())
    unknown = sum(axis == "none" or "nan" in axis for axis in axes)
    if unknown > max(0, len(axes) - 3):  # an axis of layers or colors has no spacing, the three of space must have one
        raise UnusableInput(f"{path} has a voxel spacing that is not a number; set the spacing in mm before loading it.")
    return ()


def check_voxel_files(path, stated, lines):
    """Raise UnusableInput unless every voxel file that a header at ``path`` names is there.

    ``stated`` is one name, a pattern with its first and last number and step (``slice%03d.raw 1 24 1``), or ``LIST`` with the names in the
    last of the header's ``lines``.
    """
    pattern = re.fullmatch(r"([^%]*%\d*d\S*) +(-?\d+) +(-?\d+)(?: +(-?\d+))?(?: +\d+)?", stated)
    if stated.upper().startswith("LIST"):
        first = next(n for n, line in enumerate(lines) if line.rstrip().endswith(stated))
        names = [line.strip() for line in lines[first + 1 :] if line.strip()]
    elif pattern:
        start, end, step = int(pattern[2]), int(pattern[3]), int(pattern[4] or 1) or 1
        names = [pattern[1] % n for n in range(start, end + (1 if step > 0 else -1), step)]
    else:
        names = [] if "%" in stated else [stated]
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnusableInput(f"{path} names the voxel file {missing[0]}{more}, which is not beside it; copy it there.")


def _reason(message):
    """ITK's many lines in half a sentence of plain words."""
    if "Refusing to change spacing" in message or "invalid" in message and "spacing" in message:
        return "has a voxel spacing of zero or one that is not a number; set the spacing in mm before loading it"
    if "Bad direction" in message or "determinant is 0" in message:
        return "has a singular direction matrix, so its voxels have no place in space; repair its directions"
    if "existance of all space vector" in message:
        return "has a voxel spacing that is not a number; set the spacing in mm before loading it"
    if "Unable to determine ImageIO reader" in message:
        return "is not an image that can be read (NRRD, NIfTI, MHA or DICOM is needed)"
    return "is damaged or incomplete; copy or export it again"
