"""MetaImage (.mha, .mhd): written here so that every failure of the disk is noticed; SimpleITK reads it, after its size was checked."""

from __future__ import annotations

import numpy as np

from ..errors import UnusableInput
from .deflate import write_deflated
from .nrrd import check_voxel_files, read_with_itk

_TYPES = {
    "u1": "MET_UCHAR", "i1": "MET_CHAR", "i2": "MET_SHORT", "u2": "MET_USHORT",
    "i4": "MET_INT", "u4": "MET_UINT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip
_BYTES = {name: int(code[1]) for code, name in _TYPES.items()}


def read_metaimage(path):
    """Return ``(array, geometry, metadata, notes)``."""
    with open(path, "rb") as file:
        header, start = {}, 0
        for line in file:  # 'Key = value' lines; ElementDataFile is the last
            start += len(line)
            key, _, value = line.decode("utf-8", "surrogateescape").partition("=")
            header[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile" or start > 1 << 20:
                break
        rest = file.read(1 << 20) if header.get("ElementDataFile", "").startswith("LIST") else b""  # one file a slice
        available = file.seek(0, 2) - start
    if "ElementDataFile" not in header or "DimSize" not in header:
        raise UnusableInput(f"{path} is not a MetaImage file or its header is damaged; copy or export it again.")
    # MetaIO complains on stderr and ITK names a missing file: refuse a truncated file in our own words
    if header["ElementDataFile"].upper() == "LOCAL":
        if header.get("CompressedData", "False").lower() == "true":
            needed = int(header.get("CompressedDataSize", 0))
        else:
            needed = int(np.prod([int(n) for n in header["DimSize"].split()], dtype=np.int64)) * _BYTES.get(header.get("ElementType"), 1)
        if available < needed:
            raise UnusableInput(f"{path} is incomplete: it ends before its last voxel; copy or export it again.")
    else:
        stated = header["ElementDataFile"]
        check_voxel_files(path, stated, [stated, *rest.decode("utf-8", "surrogateescape").splitlines()])
    spacing = header.get("ElementSpacing", header.get("ElementSize"))
    notes = () if spacing else ("The file states no voxel spacing; 1 mm was assumed.",)
    if spacing and not all(np.isfinite(_number(x)) and _number(x) != 0 for x in spacing.split()):
        raise UnusableInput(f"{path} has a voxel spacing of zero or one that is not a number; set the spacing in mm before loading it.")
    array, geometry, _, _ = read_with_itk(path)
    return array, geometry, {}, notes


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")


def write_metaimage(path, array, geometry):
    """Write ``array`` (k, j, i) zlib-compressed in one .mha file."""
    lps, spacing = geometry.to_lps(), geometry.spacing

    def numbers(values):
        return " ".join(repr(float(x)) for x in values)

    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        "CompressedDataSize = {:015d}",  # filled in afterwards
        f"TransformMatrix = {numbers((lps[:3, :3] / spacing).T.ravel())}",
        f"Offset = {numbers(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        f"ElementSpacing = {numbers(spacing)}",
        "DimSize = {2} {1} {0}".format(*geometry.shape),
        f"ElementType = {_TYPES[array.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    header = "\n".join(lines[:5]) + "\n" + lines[5] + "\n" + "\n".join(lines[6:]) + "\n"
    with open(path, "wb") as file:
        file.write(header.format(0).encode())
        size = write_deflated(file, array, 15)
        file.seek(0)
        file.write(header.format(size).encode())
