"""What client and child say to each other: one JSON object a line; arrays travel beside it under a name.

======================  =========================================================================================================
child says              meaning
======================  =========================================================================================================
``hello``               first line: ``protocol`` and ``version``; the client refuses any other than its own
``device``              once PyTorch is loaded: ``name`` of what computes where the device is chosen by itself
``progress``            ``fraction`` (0 to 1) and ``stage`` of job ``id``
``result``              job ``id`` is done: ``array`` names its voxels, and the other fields of a result
``report``              some moments later: ``rows``, what was measured in each structure of the result of job ``id``
``previewing``          the preview of job ``id`` is ready for edits: ``array`` names what to show before slices are seen, if asked for
``slice``               ``array`` belongs at voxel ``start`` of the preview; ``edits`` tells how many edits it contains
``similarity``          job ``id``: ``value`` of the nearest training scan, and the ``limit`` from which on it counts as a copy
``cancelled``           job ``id`` was stopped between two blocks
``error``               job ``id`` failed: ``kind`` (class of the error), ``text`` (one sentence), ``details`` (for the log)
======================  =========================================================================================================

The client says ``generate`` and ``preview`` (``id``, ``request``, ``labelmap``, ``names``, ``reference``; a preview also ``shown``),
``edit`` (``id`` of the preview, ``start`` and ``array`` if labels changed, ``look``: the slice that is looked at), ``audit`` (``id``,
``volume``, ``model``), ``forget`` (``id`` of the preview) and ``cancel`` (``id``). When the client's end closes, for whatever reason, the
child ends; it also ends when nothing has been asked of it for a quarter of an hour, so that its memory is given back.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from .. import __version__, anatomy
from ..errors import SynthesisFailed, UnusableInput
from ..synthesis.generate import Result
from ..volume import Geometry, LabelMap, Segment, Volume

PROTOCOL = 2
ERRORS = {"UnusableInput": UnusableInput, "SynthesisFailed": SynthesisFailed}


def hello() -> dict:
    return {"say": "hello", "protocol": PROTOCOL, "version": __version__}


def check_hello(message):
    """Raise SynthesisFailed unless the child is of this very version."""
    if message.get("say") != "hello" or (message.get("protocol"), message.get("version")) != (PROTOCOL, __version__):
        theirs = message.get("version", "unknown")
        raise SynthesisFailed(f"The worker is version {theirs}, but this is {__version__}; install the same version of both and restart.")


def arrays_in(message: dict):
    """Names of the arrays that belong to what a child says."""
    if isinstance(message, dict) and isinstance(message.get("array"), str):
        yield message["array"]
    if isinstance(message, dict) and "volume" in message:
        yield message["volume"]["array"]


def pack_labelmap(labelmap: LabelMap, array_name: str) -> dict:
    segments = [asdict(segment) for segment in labelmap.segments]
    return {**_pack_grid(labelmap, array_name), "segments": segments}


def unpack_labelmap(packed: dict, array: np.ndarray) -> LabelMap:
    return LabelMap(array, _geometry(packed, array), tuple(_segment(s) for s in packed["segments"]), packed["metadata"])


def pack_volume(volume: Volume, array_name: str) -> dict:
    return _pack_grid(volume, array_name)


def unpack_volume(packed: dict, array: np.ndarray) -> Volume:
    return Volume(array, _geometry(packed, array), packed["metadata"])


def pack_result(result, array_name: str) -> dict:
    return {
        "volume": {**pack_volume(result.volume, array_name), "metadata": dict(result.volume.metadata)},
        "understood": [{**asdict(u), "segment": asdict(u.segment), "structure": u.structure.name} for u in result.understood],
        "assumptions": list(result.assumptions),
        "device": str(result.device),
        "seconds": float(result.seconds),
    }


def unpack_result(packed: dict, array: np.ndarray) -> Result:
    understood = tuple(
        anatomy.Understood(**{**u, "segment": _segment(u["segment"]), "structure": anatomy.structure(u["structure"])})
        for u in packed["understood"]
    )
    return Result(unpack_volume(packed["volume"], array), understood, tuple(packed["assumptions"]), packed["device"], packed["seconds"])


def unpack_rows(rows: list[dict]):
    from ..evaluation.report import Row  # light, but its package is not the protocol's business until a report comes

    return tuple(Row(**{key: float("nan") if value is None else value for key, value in row.items()}) for row in rows)


def _pack_grid(gridded, array_name):
    # JSON writes floats so that they read back to the same bits; metadata may name a patient, so it goes one way only, with results
    return {"array": array_name, "ijk_to_ras": gridded.geometry.ijk_to_ras.tolist(), "metadata": {}}


def _geometry(packed, array):
    return Geometry(array.shape, np.array(packed["ijk_to_ras"]))


def _segment(fields):
    tuples = {key: tuple(fields[key]) if fields[key] is not None else None for key in ("code", "modifier", "color")}
    return Segment(**{**fields, **tuples})
