"""What the child can be asked for, each a function of the message and the arrays that came with it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from ..synthesis.request import Request
from . import protocol


def generate(engine, message, load, progress, cancelled):
    """The result of ``engine``, and the label map it was made from, for the report."""
    labelmap, arguments = _arguments(message, load)
    return engine(labelmap, progress=progress, cancelled=cancelled, **arguments), labelmap


def report(result, labelmap) -> list[dict]:
    """What was measured in each structure; see :class:`~CTSynthesisLib.evaluation.report.Row`."""
    from ..evaluation.report import per_structure

    finite = lambda value: None if isinstance(value, float) and not np.isfinite(value) else value  # noqa: E731  JSON has no NaN
    return [{key: finite(value) for key, value in asdict(row).items()} for row in per_structure(result.volume, labelmap, result.understood)]


def preview(message, load, progress, cancelled):
    from ..synthesis.preview import Preview

    labelmap, arguments = _arguments(message, load)
    return Preview(labelmap, shown=message["shown"], progress=progress, cancelled=cancelled, **arguments)


def audit(message, load) -> dict:
    from ..evaluation.audit import similarity_to_training

    value, limit = similarity_to_training(protocol.unpack_volume(message["volume"], load(message["volume"])), message["model"])
    return {"value": value, "limit": limit}


def device(request: dict) -> str:
    """In words, what a request is computed on."""
    import torch

    from ..synthesis.mask_cgan import choose_device

    if choose_device(request.get("device", "auto")) == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()} ({free / 1e9:.1f} GB free)"
    if choose_device(request.get("device", "auto")) == "mps":
        return "Apple GPU"
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def _arguments(message, load):
    reference = message["reference"] and protocol.unpack_volume(message["reference"], load(message["reference"]))
    request = Request.from_json(json.dumps(message["request"]))
    return protocol.unpack_labelmap(message["labelmap"], load(message["labelmap"])), {
        "request": request, "names": message["names"], "reference": reference,
    }  # fmt: skip
