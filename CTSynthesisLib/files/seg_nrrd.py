"""3D Slicer's segmentation file (.seg.nrrd): layers of labels, a name, color and terminology for each segment, and a reference geometry."""

from __future__ import annotations

import re

import numpy as np

from ..errors import UnusableInput
from ..volume import Geometry, LabelMap, Segment
from .codes import format_terminology, parse_terminology
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
    boxes = [_boxes(inside[..., layer], path) for layer in range(inside.shape[-1])]
    masks, empty = [], []
    for value, (number, field) in enumerate(sorted(fields.items()), start=1):
        layer = int(field.get("Layer", number))
        if layer >= layers.shape[-1]:
            raise UnusableInput(f"{path} is damaged: it has no layer {layer}, where {field.get('Name', number)} should be; save it again.")
        segment = _segment(value, number, field)
        label = int(field.get("LabelValue", 1))
        if label in boxes[layer]:
            box = boxes[layer][label]
            masks.append((segment, inside[..., layer][box] == label, tuple(s + b.start for s, b in zip(start, box, strict=True))))
        else:
            empty.append(segment.name)
    if empty:
        notes += (f"Left out because no voxel belongs to them: {', '.join(empty)}.",)
    if np.count_nonzero(layers) != np.count_nonzero(inside):
        notes += ("Segments reach beyond the reference image; what lies outside it was cut off, as 3D Slicer does on export.",)
    kept = {key: value for key, value in metadata.items() if not _KEY.match(key) and not key.startswith("Segmentation_")}
    return LabelMap.from_masks(target, masks, rank=rank, metadata=kept), notes


def _boxes(labels, path):
    """Label -> the slices (k, j, i) around its voxels, so that a hundred segments need not a hundred volumes."""
    if labels.size and (labels.min() < 0 or labels.max() > 1 << 16):
        raise UnusableInput(f"{path} is damaged: its label values lie outside 0 to 65536; save it again.")
    count = int(labels.max(initial=0)) + 1
    ranges = []
    for view in (labels, labels.swapaxes(0, 1), labels.transpose(2, 0, 1)):
        seen = np.array([np.bincount(part.ravel(), minlength=count) > 0 for part in view], dtype=bool).reshape(len(view), count)
        ranges.append((seen.argmax(axis=0), len(view) - seen[::-1].argmax(axis=0), seen.any(axis=0)))
    present = np.flatnonzero(ranges[0][2])
    return {int(label): tuple(slice(int(low[label]), int(high[label])) for low, high, _ in ranges) for label in present if label}


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


def write_seg_nrrd(path, labelmap: LabelMap):
    """Write ``labelmap`` as 3D Slicer writes a segmentation whose segments do not overlap (one layer)."""
    geometry = labelmap.geometry
    extent = "0 {} 0 {} 0 {}".format(*(n - 1 for n in geometry.shape[::-1]))
    metadata = dict(labelmap.metadata)
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
