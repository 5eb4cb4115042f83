"""Measure the panel on the test host: ``python Testing/host/benchmark.py [-o FILE.json] [--only NAME ...] [--kills N]``.

Each figure goes the whole way: the panel on real Qt, the real scene, the real worker and the default model. The stand-ins draw their own
widgets, and there are no slice views, so drawing is not part of the figures. Measurements:

open      the module loaded and its panel made, until the event loop has nothing left to do
start     worker process from nothing to PyTorch loaded and the first volume of 24 slices of 64 x 64
strokes   brush stroke in the scene → slice updated in the preview volume, at 256 and 512 pixels in-plane, with the traffic of a stroke
cancel    Cancel clicked at random moments of a run → the panel ready again
kills     the child killed at random moments: is the scene as it was, does the next run work, is anything left behind
beats     longest time that the event loop did not come round during a run of 512 x 512 x 300 voxels
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from vtk.util.numpy_support import vtk_to_numpy

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "host")]


class Bench:
    """The panel, opened, and what is done to it."""

    def __init__(self):
        from CTSynthesisLib.headless import boot_scene

        self.application = boot_scene()
        import slicer
        import slicer_app

        self.slicer = slicer
        slicer_app.start()
        slicer.util.errorDisplay = lambda *_, **__: None  # nobody is there to close it
        started = time.monotonic()
        self.module, _ = slicer_app.load_module(ROOT / "CTSynthesis" / "CTSynthesis.py")
        self.widget = slicer_app.open_panel(self.module, "CTSynthesis")
        slicer.app.processEvents()
        self.opened = time.monotonic() - started
        self.ui, self.runner = self.widget.ui, self.widget.logic.runner
        self.random = np.random.default_rng(0)

    def show(self, slices, in_plane):
        """The bundled segmentation at this size, chosen in the panel."""
        from CTSynthesisLib.evaluation.benchmark import sample
        from CTSynthesisLib.scene import labelmap_to_segmentation

        self.slicer.mrmlScene.Clear(False)
        self.labelmap = sample(slices, in_plane)
        self.segmentation = labelmap_to_segmentation(self.labelmap, "Thorax")
        self.ui.segmentationSelector.setCurrentNode(self.segmentation)
        self.events(0.3)

    def events(self, seconds=0.0, until=None):
        """Run the event loop; the longest time that it did not come round, and beside it the processor time of the longest lap."""
        longest, deadline = 0.0, time.monotonic() + seconds
        self.longest_cpu = 0.0
        while not until() if until else time.monotonic() < deadline:
            lap, cpu = time.monotonic(), time.thread_time()
            self.slicer.app.processEvents()
            longest, self.longest_cpu = max(longest, time.monotonic() - lap), max(self.longest_cpu, time.thread_time() - cpu)
            time.sleep(0.001)
        return longest

    def nodes(self):
        scene = self.slicer.mrmlScene
        return {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}

    def ready(self):
        return self.ui.generateButton.text == "Generate"

    def generate(self):
        self.ui.generateButton.click()
        self.events(until=self.ready)
        return self.runner.history.last

    # -- measurements ------------------------------------------------------------------------------------------------------------

    def open(self, _):
        return {"seconds": self.opened}

    def start(self, _):
        self.show(24, 64)
        self.widget.logic.session.worker.close()
        started = time.monotonic()
        self.generate()
        cold = time.monotonic() - started
        started = time.monotonic()
        self.generate()
        return {"cold_seconds": cold, "warm_seconds": time.monotonic() - started}

    def strokes(self, _):
        return {str(size): self._strokes(size) for size in (256, 512)}

    def _strokes(self, in_plane):
        self.show(32, in_plane)
        self.ui.previewCheckBox.setChecked(True)
        preview, worker = self.runner.preview, self.widget.logic.session.worker
        self.events(until=lambda: preview.node is not None)
        first = self.slicer.util.arrayFromVolume(preview.node)
        self.events(until=lambda: len(np.unique(first[16])) > 200)
        self.events(1.0)
        sent = []
        put = worker.transport.put
        worker.transport.put = lambda name, array: (sent.append(array.nbytes), put(name, array))
        seconds, busy, side = [], [], in_plane // 16
        for _ in range(12):
            j, i = (int(n) for n in self.random.integers(in_plane // 3, 2 * in_plane // 3, 2))
            self.paint((slice(16, 17), slice(j, j + side), slice(i, i + side)))
            painted = time.monotonic()  # the stroke is in the scene; the debounce, the reading and the way there and back are counted
            before = worker_slices(preview)
            cpu = cpu_seconds(worker.transport.process.pid) + time.process_time()
            self.events(until=lambda before=before: worker_slices(preview) != before)
            seconds.append(time.monotonic() - painted)
            busy.append(cpu_seconds(worker.transport.process.pid) + time.process_time() - cpu)
            self.events(until=lambda: not preview._asked and not preview._slabs)
            self.events(0.6)
        worker.transport.put = put
        self.ui.previewCheckBox.setChecked(False)
        self.events(0.2)
        return {"median_seconds": float(np.median(seconds)), "worst_seconds": max(seconds), "median_cpu_seconds": float(np.median(busy)),
                "bytes_of_a_stroke": int(np.median(sent))}  # fmt: skip

    def paint(self, window):
        """A stroke of the muscle segment into the layer that all segments share, as the Segment Editor's brush writes it."""
        segmentation = self.segmentation.GetSegmentation()
        segment_id = segmentation.GetSegmentIdBySegmentName("muscle")
        image = self.segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        voxels[window] = segmentation.GetSegment(segment_id).GetLabelValue()
        image.GetPointData().GetScalars().Modified()
        image.Modified()
        segmentation.GetSegment(segment_id).Modified()

    def cancel(self, _):
        self.show(150, 256)
        self.generate_some()
        seconds = []
        for _ in range(12):
            before = self.nodes()
            self.ui.generateButton.click()
            self.events(float(self.random.uniform(0.1, 4)))
            if self.ready():
                continue
            clicked = time.monotonic()
            self.ui.generateButton.click()
            self.events(until=self.ready)
            seconds.append(time.monotonic() - clicked)
            assert self.nodes() == before
        return {"median_seconds": float(np.median(seconds)), "worst_seconds": max(seconds), "times": len(seconds)}

    def generate_some(self):
        """A warm worker."""
        self.ui.generateButton.click()
        self.events(2.0)
        self.ui.generateButton.click()
        self.events(until=self.ready)

    def kills(self, count):
        self.show(32, 128)
        folder = Path(tempfile.mkdtemp(prefix="kills-"))
        tempfile.tempdir = str(folder)
        changed = failed = left = struck = 0
        while struck < count:
            before = self.nodes()
            self.ui.generateButton.click()
            self.events(float(self.random.uniform(0.0, 4.0)))
            process = self.widget.logic.session.worker.transport.process
            if process is not None and not self.ready():
                struck += 1
                process.kill()
                self.events(until=self.ready)
                changed += self.nodes() != before
                left += len(list(folder.iterdir()))
            if struck % 10 == 0:  # each Generate after a kill starts a worker anew; each tenth is let finish
                node = self.generate()
                failed += node is None or node.GetImageData() is None
        self.widget.logic.session.worker.close()
        left += len(list(folder.iterdir()))
        tempfile.tempdir = None
        return {"kills": struck, "scene_changed": changed, "next_run_failed": failed, "files_left": left}

    def beats(self, _):
        self.show(300, 512)
        self.ui.resultCollapsibleButton.collapsed = False
        started, cpu = time.monotonic(), time.thread_time()
        self.ui.generateButton.click()
        handed_over, cpu = time.monotonic() - started, time.thread_time() - cpu
        during = self.events(until=lambda: self.runner.kind is None)
        longest_cpu = self.longest_cpu
        generated = time.monotonic() - started
        after = self.events(until=lambda: self.ui.qualityTable.rowCount > 0)
        return {"hand_over_seconds": handed_over, "hand_over_cpu_seconds": cpu, "longest_block_seconds": max(during, after),
                "longest_block_cpu_seconds": max(longest_cpu, self.longest_cpu), "run_seconds": generated,
                "report_after_seconds": time.monotonic() - started - generated}  # fmt: skip


def cpu_seconds(pid):
    """Processor time of a process so far: what it takes however busy the machine is. NaN where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def worker_slices(preview):
    return preview.latency, preview.node.GetImageData().GetMTime()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output")
    parser.add_argument("--only", nargs="+", default=["open", "start", "strokes", "cancel", "kills", "beats"])
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    bench = Bench()
    figures = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")}
    for name in options.only:
        figures["load_average"] = os.getloadavg()[0]
        figures[name] = getattr(bench, name)(options.kills)
        print(name, json.dumps(figures[name]), f"(load average {figures['load_average']:.1f})", flush=True)
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")
    bench.widget.cleanup()


if __name__ == "__main__":
    main()
