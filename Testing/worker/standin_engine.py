"""STAND-INS for the engine: the signature of ``synthesis.generate.generate``, no network. They try the worker, not the synthesis."""

import dataclasses
import os
import tempfile
import time

import numpy as np

from CTSynthesisLib import anatomy
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.generate import Result
from CTSynthesisLib.volume import Volume


def draw(labelmap, request, *, names=None, reference=None, progress=None, cancelled=None):
    """Noise around 100 HU times the label, by seed; voxels of the reference where there is no label."""
    print("libraries print what they like")
    for step in range(5):
        progress(step / 5, f"Block {step + 1} of 5")
    noise = np.random.default_rng(request.seed).normal(0, 10, labelmap.array.shape)
    array = np.rint(100.0 * labelmap.array + noise).astype(np.int16)
    if reference is not None:
        array = np.where(labelmap.array == 0, reference.array, array)
    understood = anatomy.understand(labelmap.segments, names=names)
    metadata = {"CTSynthesis.Synthetic": "1", "CTSynthesis.Request": request.to_json()}
    return Result(Volume(array, labelmap.geometry, metadata), understood, ("Nothing was understood.",), "cpu", 0.25)


def assume(labelmap, request, **arguments):
    """Draws, and says what the real engine says of segments that it does not know."""
    result = draw(labelmap, request, **arguments)
    return dataclasses.replace(result, assumptions=tuple(u.note for u in result.understood if u.note))


def run_out_of_disk(labelmap, request, **_):
    raise OSError(28, "No space left on device", f"{tempfile.gettempdir()}/CTSynthesis-abc123/answer-1.npy")


def refuse(labelmap, request, **_):
    raise UnusableInput("The segmentation is not to my liking; paint another one.")


def stumble(labelmap, request, **_):
    raise ZeroDivisionError("division by zero")


def crash(labelmap, request, **_):
    os._exit(11)


def obey(labelmap, request, *, progress, cancelled, **_):
    """Works for a minute in small blocks and stops between two of them when asked."""
    for step in range(6000):
        progress(step / 6000, "Working")
        time.sleep(0.01)
        if cancelled():
            raise RuntimeError("stopped")


def ignore(labelmap, request, *, progress, **_):
    """Works for a minute in one block that cannot be stopped."""
    progress(0.5, "Working")
    time.sleep(60)


def crash_or_draw(labelmap, request, **arguments):
    return crash(labelmap, request) if request.seed == 666 else draw(labelmap, request, **arguments)


def obey_or_draw(labelmap, request, **arguments):
    return obey(labelmap, request, **arguments) if request.seed == 666 else draw(labelmap, request, **arguments)
