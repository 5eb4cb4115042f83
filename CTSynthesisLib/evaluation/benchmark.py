"""Speed, memory, determinism and start-up, measured on the machine at hand.

Each size runs in a fresh process (``python -m CTSynthesisLib.evaluation.benchmark``), so that one run's peak memory is not another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np

from .. import RESOURCES
from ..errors import SynthesisFailed
from ..synthesis.memory import prepare_process
from ..synthesis.request import Request
from ..volume import Geometry, LabelMap, resample

BUSY_SLICES = 128  # of the size that is also measured beside another process
LOADED_IN_SLICER = ("anatomy", "volume", "files", "synthesis.request", "worker.client")  # what the panel needs before Generate


def measure(request: Request, *, slices=(64, 128, 256, 512), in_plane=256, runs=20, say=lambda line: None) -> dict:
    """All figures as a dict that JSON can hold; ``say`` is told each one as it is found."""
    figures = {"machine": _machine(), "request": asdict(request), "in_plane": in_plane, "sizes": []}
    for count in slices:
        figures["sizes"].append(size := _in_a_process("size", request, in_plane, count))
        say(
            f"{in_plane} x {in_plane} x {count}: {size['seconds']:.2f} s warm, {size['first_seconds']:.2f} s first, "
            f"peak memory {size['peak_mb']:.0f} MB ({size['peak_beyond_volume_mb']:.0f} MB beyond the volume itself)"
        )
    count = BUSY_SLICES if BUSY_SLICES in slices else slices[0]
    with _busy_process():
        figures["busy"] = busy = _in_a_process("size", request, in_plane, count)
    say(f"{count} slices beside one busy process: {busy['seconds']:.2f} s warm, {busy['first_seconds']:.2f} s first")
    figures["determinism"] = same = _in_a_process("determinism", request, in_plane, runs)
    say(f"{runs} runs with one seed: {'bit-identical' if same['different'] == 1 else str(same['different']) + ' different results'}")
    figures["seeds"] = seeds = _in_a_process("seeds", request, in_plane, 48)
    ratios = [s["texture"] for s in seeds["structures"]]
    say(f"two seeds: texture differs by {min(ratios):.2f} to {max(ratios):.2f} of each structure's own spread")
    figures["imports"] = imports = imported()
    say(f"import of what Slicer loads: {imports['seconds']:.2f} s, torch {'loaded' if imports['torch'] else 'not loaded'}")
    return figures


def as_text(figures) -> str:
    machine = figures["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, {machine['system']}, torch {machine['torch']}",
        f"model {figures['request']['model']}, label map to HU array, {figures['in_plane']} x {figures['in_plane']} voxels a slice",
        "",
        "slices   warm s   ms a slice   peak MB   beyond the volume MB",
    ]
    for size in figures["sizes"]:
        lines.append(
            f"{size['slices']:6d} {size['seconds']:8.2f} {1000 * size['seconds'] / size['slices']:12.1f} "
            f"{size['peak_mb']:9.0f} {size['peak_beyond_volume_mb']:22.0f}"
        )
    same, imports, busy = figures["determinism"], figures["imports"], figures["busy"]
    lines += ["", f"{busy['slices']} slices beside one busy process: {busy['seconds']:.2f} s warm"]
    lines += ["", f"one seed, {same['runs']} runs: {same['different']} distinct result{'s' if same['different'] > 1 else ''}", ""]
    lines += [f"{'two seeds':<28} texture / own spread   difference of means HU"]
    largest = sorted(figures["seeds"]["structures"], key=lambda s: -s["voxels"])[:15]
    lines += [f"{s['structure']:<28} {s['texture']:20.2f} {s['mean_difference_hu']:24.1f}" for s in largest]
    lines += ["", f"import {imports['seconds']:.2f} s, torch {'loaded' if imports['torch'] else 'not loaded'}"]
    return "\n".join(lines)


def as_json(figures) -> str:
    return json.dumps(figures, indent=2) + "\n"


def sample(slices: int, in_plane: int) -> LabelMap:
    """The middle ``slices`` of the bundled segmentation at ``in_plane`` x ``in_plane`` voxels, mirrored if there are too few."""
    from ..files import read_segmentation

    labelmap = read_segmentation(RESOURCES / "Samples" / "thorax.seg.nrrd")
    source = labelmap.geometry
    extent = np.array(source.shape[::-1]) * source.spacing
    target = source.with_spacing((extent[0] / in_plane, extent[1] / in_plane, source.spacing[2]))
    array = resample(labelmap.array, source, target, labels=True)
    array = array[max(0, (len(array) - slices) // 2) :]
    back_and_forth = np.concatenate([np.arange(len(array)), np.arange(len(array))[::-1]])
    array = array[np.resize(back_and_forth, slices)]
    return LabelMap(np.ascontiguousarray(array), Geometry(array.shape, target.ijk_to_ras), labelmap.segments)


def imported() -> dict:
    """Seconds to import what Slicer's process needs, in a fresh interpreter, and whether torch came with it."""
    code = (
        "import numpy, SimpleITK, time, sys, importlib\nstarted = time.perf_counter()\n"
        f"for name in {LOADED_IN_SLICER}: importlib.import_module('CTSynthesisLib.' + name)\n"
        "import json; print(json.dumps({'seconds': time.perf_counter() - started, 'torch': 'torch' in sys.modules}))"
    )
    return json.loads(_python("-c", code))


def _size(request, in_plane, slices):
    from ..synthesis.generate import generate

    labelmap = sample(slices, in_plane)
    warm_up = LabelMap(labelmap.array[:16], labelmap.geometry.crop((0, 0, 0), (16, *labelmap.geometry.shape[1:])), labelmap.segments)
    started = time.perf_counter()
    generate(warm_up, request)
    first = time.perf_counter() - started
    started = time.perf_counter()
    result = generate(labelmap, request)
    seconds = time.perf_counter() - started
    peak = _peak_mb()
    volume = (labelmap.array.nbytes + result.volume.array.nbytes) / 2**20
    return {"slices": slices, "seconds": seconds, "first_seconds": first, "peak_mb": peak, "peak_beyond_volume_mb": peak - volume}


def _determinism(request, in_plane, runs):
    from ..synthesis.generate import generate

    labelmap = sample(24, in_plane // 2)
    digests = {hashlib.sha256(generate(labelmap, request).volume.array.tobytes()).hexdigest() for _ in range(runs)}
    return {"runs": runs, "different": len(digests)}


def _seeds(request, in_plane, slices):
    """How two seeds differ: texture against each structure's own spread, and the difference of the means."""
    from ..synthesis.generate import generate

    labelmap = sample(slices, in_plane)
    one, two = (generate(labelmap, replace(request, seed=request.seed + n)) for n in (0, 1))
    rows = []
    for item in one.understood:
        inside = _inner(labelmap.mask(item.segment))
        if inside.sum() < 500:
            continue
        a, b = one.volume.array[inside].astype(float), two.volume.array[inside].astype(float)
        rows.append({"structure": item.structure.name, "voxels": int(inside.sum()), "texture": float((a - b).std() / max(a.std(), 1e-6)),
                     "mean_difference_hu": float(abs(a.mean() - b.mean()))})
    return {"structures": rows}


def _inner(mask):
    """The mask without its outermost voxels, where a structure's spread is its neighbor's."""
    inner = mask.copy()
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return inner


@contextlib.contextmanager
def _busy_process():
    """Another process that computes without a pause, as 3D Slicer does while it draws."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _in_a_process(task, request, in_plane, number):
    return json.loads(_python("-m", __name__, task, request.to_json(), str(in_plane), str(number)).splitlines()[-1])


def _python(*arguments) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RESOURCES.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SynthesisFailed(f"A measurement could not be finished ({reason}); run the same size with `ctsynthesis generate` to see why.")
    return done.stdout


def _peak_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def _machine() -> dict:
    import torch

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.platform(terse=True),
            "python": platform.python_version(), "torch": torch.__version__}


if __name__ == "__main__":
    task, text, in_plane, number = sys.argv[1:]
    prepare_process()  # as the command line and the worker do
    work = {"size": _size, "determinism": _determinism, "seeds": _seeds}[task]
    print(json.dumps(work(Request.from_json(text), int(in_plane), int(number))))
