"""STAND-INS for the engine: the signature of ``synthesis.generate.generate``, no network. They try the worker, not the synthesis."""

import os
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
