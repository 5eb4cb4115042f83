"""3D Slicer's segmentation file (.seg.nrrd): layers of labels, a name, color and terminology for each segment, and a reference geometry."""

from __future__ import annotations

import re

import numpy as np

from ..errors import UnusableInput
from ..volume import Geometry, LabelMap, Segment
from .codes import format_terminology, parse_terminology
from .flatten import Flattening
from .nrrd import write_nrrd

_KEY = re.compile(r"^Segment(\d+)_(\w+)$")


def holds_segments(metadata) -> bool:
    return "Segment0_ID" in metadata or "Segment0_Name" in metadata


def segments_from(array, geometry, metadata, path, rank=None):
    """Flatten what :func:`nrrd.read_with_itk` returned for a segmentation file. Returns ``(labelmap, notes)``.

    Overlapping segments lie in layers; files of 3D Slicer before 4.11 hold one segment a layer and no label values. The labels come
    back on the reference image's grid, which is what the user sees in 3D Slicer, also where the file holds only the part that is
    painted on.
    """
    try:
        return _flattened(array, geometry, metadata, path, rank)
    except UnusableInput:
        raise
    except (ValueError, IndexError) as error:
        raise UnusableInput(f"{path} is damaged: its segment fields cannot be understood; save it again.") from error


def _flattened(array, geometry, metadata, path, rank):
    representation = metadata.get("Segmentation_MasterRepresentation", "Binary labelmap")
    if representation != "Binary labelmap":
        raise UnusableInput(f"{path} holds segments as a {representation}; convert it to a binary labelmap in 3D Slicer.")
    layers = array if array.ndim == 4 else array[..., None]
    fields: dict[int, dict[str, str]] = {}
    for key, value in metadata.items():
        if match := _KEY.match(key):
            fields.setdefault(int(match[1]), {})[match[2]] = value
    target, notes = _reference_grid(geometry, metadata)
    source, start = _overlap(geometry, target)
    inside = layers[source]
    if inside.size and (inside.min() < 0 or inside.max() >= 1 << 16):
        raise UnusableInput(f"{path} is damaged: its label values lie outside 0 to 65535; save it again.")
    stated = any("LabelValue" in field for field in fields.values())
    values = [int(field.get("LabelValue", 0)) for _, field in sorted(fields.items())]
    if len(set(values)) < len(values) or 0 in values:  # layers count their labels each for themselves
        values = range(1, len(fields) + 1)
    segments, labels_of = [], [{} for _ in range(inside.shape[-1])]
    for number, field in sorted(fields.items()):
        layer = int(field.get("Layer", number))
        if layer >= len(labels_of):
            raise UnusableInput(f"{path} is damaged: it has no layer {layer}, where {field.get('Name', number)} should be; save it again.")
        labels_of[layer][int(field.get("LabelValue", 1))] = len(segments)
        segments.append(_segment(values[len(segments)], number, field))
    flat = Flattening(target, segments, rank)
    for layer, numbers in enumerate(labels_of):
        labels = inside[..., layer]
        flat.paint_layer(numbers, labels if stated else labels > 0, start)
    if np.count_nonzero(layers) != np.count_nonzero(inside):
        notes += ("Segments reach beyond the reference image; what lies outside it was cut off, as 3D Slicer does on export.",)
    kept = {key: value for key, value in metadata.items() if not _KEY.match(key) and not key.startswith("Segmentation_")}
    labelmap, more = flat.result(kept)
    return labelmap, notes + more


def _segment(value, number, field):
    tags = dict(tag.split(":", 1) for tag in field.get("Tags", "").split("|") if ":" in tag)
    code, modifier = parse_terminology(tags.get("TerminologyEntry", ""))
    color = tuple(float(x) for x in field.get("Color", "").split())
    name = field.get("Name") or field.get("ID") or f"Segment_{number + 1}"
    return Segment(value, name, code=code, modifier=modifier, color=color if len(color) == 3 else None)


def _reference_grid(geometry, metadata):
    """The reference image's grid, in the full precision of the file's own geometry where both lie on one lattice."""
    match = re.search(r"Reference image geometry\|([^|]*)\|", metadata.get("Segmentation_ConversionParameters", ""))
    numbers = [float(x) for x in match[1].split(";") if x.strip()] if match else []
    if len(numbers) != 22:
        return geometry, ()
    matrix, extent = np.reshape(numbers[:16], (4, 4)), np.array(numbers[16:], dtype=int)
    size = extent[1::2] - extent[::2] + 1
    if size.min() < 1:
        return geometry, ()
    to_file = np.linalg.solve(geometry.ijk_to_ras, matrix)
    start = to_file[:3, :3] @ extent[::2] + to_file[:3, 3]
    if np.abs((to_file[:3, :3] - np.eye(3)) @ size).max() > 0.1 or np.abs(start - np.round(start)).max() > 0.1:
        return geometry, ("The segmentation has another grid than its reference image; its own grid was used.",)
    return geometry.crop(np.round(start).astype(int)[::-1], size[::-1]), ()


def _overlap(source: Geometry, target: Geometry):
    """Slices of ``source`` that lie in ``target``, and the voxel (k, j, i) of ``target`` at which they begin."""
    shift = np.round(np.linalg.solve(source.ijk_to_ras, target.ijk_to_ras)[:3, 3]).astype(int)[::-1]  # target's origin in source voxels
    low = np.maximum(shift, 0)
    high = np.maximum(low, np.minimum(np.array(source.shape), shift + target.shape))
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), tuple(np.maximum(0, -shift) * (high > low))


def write_seg_nrrd(path, labelmap: LabelMap, metadata: dict[str, str]):
    """Write ``labelmap`` as 3D Slicer writes a segmentation whose segments do not overlap (one layer)."""
    geometry = labelmap.geometry
    extent = "0 {} 0 {} 0 {}".format(*(n - 1 for n in geometry.shape[::-1]))
    for number, segment in enumerate(labelmap.segments):
        color = segment.color or _distinct_color(number)
        tags = f"TerminologyEntry:{format_terminology(segment.code, segment.modifier)}|" if segment.code else ""
        fields = {
            "ID": f"Segment_{segment.value}",
            "Name": segment.name,
            "NameAutoGenerated": 0,
            "Color": "{:.6g} {:.6g} {:.6g}".format(*color),
            "ColorAutoGenerated": int(segment.color is None),
            "Extent": extent,
            "LabelValue": segment.value,
            "Layer": 0,
            "Tags": tags,
        }
        metadata |= {f"Segment{number}_{key}": value for key, value in fields.items()}
    grid = ";".join([repr(float(x)) for x in geometry.ijk_to_ras.ravel()] + extent.split()) + ";"
    metadata |= {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{grid}|Geometry of the image that the segmentation belongs to.&",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    largest = max((segment.value for segment in labelmap.segments), default=0)
    write_nrrd(path, labelmap.array.astype("u1" if largest < 256 else "u2" if largest < 65536 else "i4", copy=False), geometry, metadata)


def _distinct_color(number):
    """Colors that differ from one another: the golden angle around the color wheel."""
    hue = number * 0.61803398875 % 1 * 6
    return tuple(0.35 + 0.55 * min(1.0, max(0.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2))
