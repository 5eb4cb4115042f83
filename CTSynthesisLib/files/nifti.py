"""NIfTI-1 (.nii, .nii.gz), read and written here: ITK reads truncated files and zero spacings without a word, and misses a full disk.

The voxel-to-world matrix is the sform where the file has one, else the qform; both are written.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from xml.etree import ElementTree

import numpy as np

from ..errors import UnusableInput
from ..volume import LPS_FROM_RAS, Geometry
from .deflate import write_deflated

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLORS = {128, 2304}
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti(path):
    """Return ``(array, geometry, notes)``: scaled voxels (k, j, i), RAS geometry, sentences on what was assumed."""
    try:
        with _opened(path) as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnusableInput(f"{path} is damaged or incomplete ({error}); copy or download it again.") from error
    order = next((o for o in "<>" if len(content) >= 352 and struct.unpack_from(o + "i", content)[0] == 348), None)
    if order is None or content[344:347] not in (b"n+1", b"ni1"):
        raise UnusableInput(f"{path} is not a NIfTI-1 file; save it again as NRRD or NIfTI.")
    dim = struct.unpack_from(order + "8h", content, 40)
    datatype = struct.unpack_from(order + "h", content, 70)[0]
    pixdim = np.array(struct.unpack_from(order + "8f", content, 76), dtype=np.float64)
    offset, slope, intercept = struct.unpack_from(order + "3f", content, 108)
    if datatype in _COLORS or (dim[0] == 5 and dim[4] == 1 and dim[5] > 1):
        raise UnusableInput(f"{path} holds several values per voxel (a color image); a volume with one value per voxel is needed.")
    if datatype not in _TYPES:
        raise UnusableInput(f"{path} holds voxels of a kind that is not supported (NIfTI type {datatype}); save them as numbers.")
    if dim[0] < 3 or dim[0] > 7 or any(n > 1 for n in dim[4 : dim[0] + 1]) or min(dim[1:4]) < 1:
        size = " x ".join(str(n) for n in dim[1 : max(1, min(dim[0], 7)) + 1])
        raise UnusableInput(f"{path} is not a three-dimensional image (its size is {size}); save one volume from it.")
    shape, dtype = dim[3:0:-1], np.dtype(order + _TYPES[datatype])
    count = int(np.prod(shape, dtype=np.int64))
    if len(content) < int(offset) + count * dtype.itemsize:
        raise UnusableInput(f"{path} is incomplete: it ends before its last voxel; copy or download it again.")
    array = np.frombuffer(content, dtype, count, int(offset)).reshape(shape).astype(dtype.newbyteorder("="))
    if np.isfinite(slope) and slope != 0 and (slope != 1 or intercept != 0):
        array = array * np.float64(slope) + intercept
    matrix, notes = _voxel_to_world(content, order, pixdim)
    matrix[:3] *= _UNITS_MM.get(content[123] & 7, 1.0)
    return array, Geometry(shape, matrix), notes


def _opened(path):
    """The file, unpacked if it is packed: by what it holds, for names say otherwise often enough."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, "rb")


def label_names(path) -> dict[int, str]:
    """Label value -> name from the table that TotalSegmentator and Connectome Workbench write behind the header; empty if there is none."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return {}
    with _opened(path) as file:  # known to be a whole NIfTI file
        header = file.read(352)
        order = "<" if struct.unpack_from("<i", header)[0] == 348 else ">"
        extensions = file.read(max(0, int(struct.unpack_from(order + "f", header, 108)[0]) - 352)) if header[348] else b""
    found, start = {}, 0
    while start + 8 <= len(extensions):
        (size,) = struct.unpack_from(order + "i", extensions, start)
        if size < 8:
            break
        text = extensions[start + 8 : start + size].rstrip(b"\0")
        start += size
        if b"<LabelTable" in text and b"<!DOCTYPE" not in text:
            try:
                labels = ElementTree.fromstring(text).iter("Label")
                found |= {int(label.get("Key", 0)): " ".join((label.text or "").split()) for label in labels}
            except (ElementTree.ParseError, ValueError):
                continue  # a table that cannot be read names nothing: the labels keep their values, and this is told
    return {value: name for value, name in found.items() if value > 0 and name}


def _voxel_to_world(content, order, pixdim):
    qform, sform = struct.unpack_from(order + "2h", content, 252)
    matrix = np.eye(4)
    if sform > 0:
        matrix[:3] = np.reshape(struct.unpack_from(order + "12f", content, 280), (3, 4))
        return matrix, ()
    if qform > 0:
        b, c, d, *origin = struct.unpack_from(order + "6f", content, 256)
        a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        rotation = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ])  # fmt: skip
        matrix[:3, :3] = rotation * pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1]
        matrix[:3, 3] = origin
        return matrix, ()
    matrix[:3, :3] = np.diag(pixdim[1:4])
    return LPS_FROM_RAS @ matrix, ("The file does not say how its axes lie in the body; left, back and up were assumed, as in 3D Slicer.",)


def write_nifti(path, array, geometry, compressed=True, description=""):
    """Write ``array`` (k, j, i) to ``path``; geometry in float32, as NIfTI holds it."""
    dtype = array.dtype.newbyteorder("<")
    code = next((code for code, name in _TYPES.items() if np.dtype("<" + name) == dtype), None)
    if code is None or max(geometry.shape) > 32767:
        raise UnusableInput(f"NIfTI cannot hold an array of {array.dtype} and shape {array.shape}; write NRRD instead.")
    matrix = geometry.ijk_to_ras
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *geometry.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, array.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, -1 if geometry.is_left_handed else 1, *geometry.spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2  # millimetres
    header[148:228] = description.encode("ascii", "replace")[:79].ljust(80, b"\0")
    struct.pack_into("<2h", header, 252, 0 if geometry.is_sheared else 1, 1)  # a quaternion cannot hold a shear
    struct.pack_into("<6f", header, 256, *_quaternion(geometry), *geometry.origin)
    struct.pack_into("<12f", header, 280, *matrix[:3].ravel())
    header[344:348] = b"n+1\0"
    with open(path, "wb") as file:
        if compressed:
            write_deflated(file, array, 31, bytes(header))
        else:
            file.write(header)
            file.write(np.ascontiguousarray(array, dtype))


def _quaternion(geometry):
    """(b, c, d) of the unit quaternion of the axes, with the k axis flipped where they are left-handed (NIfTI's qfac)."""
    left, _, right = np.linalg.svd(geometry.directions * [1, 1, -1 if geometry.is_left_handed else 1])
    r = left @ right
    xx, yy, zz = np.diag(r)
    square = np.array([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz]) / 4  # a², b², c², d²
    products = np.array([
        [square[0], (r[2, 1] - r[1, 2]) / 4, (r[0, 2] - r[2, 0]) / 4, (r[1, 0] - r[0, 1]) / 4],
        [(r[2, 1] - r[1, 2]) / 4, square[1], (r[0, 1] + r[1, 0]) / 4, (r[0, 2] + r[2, 0]) / 4],
        [(r[0, 2] - r[2, 0]) / 4, (r[0, 1] + r[1, 0]) / 4, square[2], (r[1, 2] + r[2, 1]) / 4],
        [(r[1, 0] - r[0, 1]) / 4, (r[0, 2] + r[2, 0]) / 4, (r[1, 2] + r[2, 1]) / 4, square[3]],
    ])  # fmt: skip
    row = products[np.argmax(square)]  # divide by the largest component: no loss of precision near half turns
    quaternion = row / np.linalg.norm(row)
    return quaternion[1:] * (1 if quaternion[0] >= 0 else -1)
