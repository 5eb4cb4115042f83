"""The child process: what comes back, what happens when it is stopped or breaks, and that nothing of it is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.synthesis.generate import Result, generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import Segment, Volume
from CTSynthesisLib.worker import Cancelled, Progress, Worker
from CTSynthesisLib.worker.protocol import check_hello
from CTSynthesisLib.worker.transport import PipeTransport, python_executable
from Testing.phantom import thorax
from Testing.worker import standin_engine


@pytest.fixture
def a_temporary_folder(tmp_path, monkeypatch):
    """Where the worker makes its folder, so that what it leaves can be seen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def a_worker_with(a_temporary_folder):
    """A function that makes a worker whose child runs a stand-in engine."""
    workers = []

    def make(engine):
        workers.append(Worker(PipeTransport(engine=f"Testing.worker.standin_engine:{engine}")))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()
    assert list(a_temporary_folder.iterdir()) == []


def wait_until(worker, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the worker did not get there in time"
        worker.poll()
        time.sleep(0.005)


def wait_for(worker, kind):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if isinstance(news := worker.poll(), kind):
            return news
        time.sleep(0.005)
    raise AssertionError(f"no {kind.__name__} within 20 s")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if Path("/proc").exists() else True


def ends(pid, seconds=3.0):
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_the_result_is_that_of_a_direct_call(a_worker_with, an_oblique_labelmap):
    names = {"heart": "liver"}
    reference = Volume(np.full(an_oblique_labelmap.array.shape, -77, np.int16), an_oblique_labelmap.geometry, {"from": "a scan"})
    stages = []
    result = a_worker_with("draw").generate(
        an_oblique_labelmap, Request(seed=3), names, reference, progress=lambda fraction, stage: stages.append((fraction, stage))
    )
    direct = standin_engine.draw(an_oblique_labelmap, Request(seed=3), names=names, reference=reference, progress=lambda *_: None)
    assert np.array_equal(result.volume.array, direct.volume.array) and result.volume.array.dtype == np.int16
    assert np.array_equal(result.volume.geometry.ijk_to_ras, direct.volume.geometry.ijk_to_ras)
    assert result.volume.metadata == direct.volume.metadata
    assert result.understood == direct.understood
    assert (result.assumptions, result.device, result.seconds) == (direct.assumptions, direct.device, direct.seconds)
    assert stages[-1] == (0.8, "Block 5 of 5")


@pytest.fixture
def drawn_directly():
    """A label map and its result; made before the temporary folder is watched, in which PyTorch makes one of its own the first time."""
    labelmap = thorax(shape=(3, 24, 24), spacing=(3.0, 3.0, 5.0))
    return labelmap, generate(labelmap, Request(seed=5))


def test_the_real_engine_gives_the_same_bits_through_the_worker(drawn_directly, a_temporary_folder):
    labelmap, direct = drawn_directly
    with Worker() as worker:
        result = worker.generate(labelmap, Request(seed=5))
    assert np.array_equal(result.volume.array, direct.volume.array)
    assert result.volume.metadata == direct.volume.metadata
    assert result.understood == direct.understood and result.assumptions == direct.assumptions
    assert list(a_temporary_folder.iterdir()) == []


def test_one_child_serves_all_jobs(a_worker_with, a_labelmap):
    worker = a_worker_with("draw")
    worker.generate(a_labelmap, Request(seed=1))
    pid = worker.transport.process.pid
    worker.generate(a_labelmap, Request(seed=2))
    assert worker.transport.process.pid == pid
    assert list(worker.transport.folder.iterdir()) == []  # the arrays go when a job is done


def test_errors_keep_their_class_and_sentence(a_worker_with, a_labelmap):
    with pytest.raises(UnusableInput) as refusal:
        a_worker_with("refuse").generate(a_labelmap)
    assert str(refusal.value) == "The segmentation is not to my liking; paint another one."
    with pytest.raises(SynthesisFailed, match="ZeroDivisionError: division by zero") as failure:
        a_worker_with("stumble").generate(a_labelmap)
    assert "standin_engine.py" in failure.value.__notes__[0]  # the child's traceback, for the log


def test_one_job_at_a_time(a_worker_with, a_labelmap):
    worker = a_worker_with("obey")
    worker.submit(a_labelmap)
    with pytest.raises(SynthesisFailed, match="already being generated"):
        worker.submit(a_labelmap)


def test_a_report_follows_the_result(a_worker_with, a_labelmap):
    worker = a_worker_with("draw")
    worker.generate(a_labelmap, Request(seed=1))
    wait_until(worker, lambda: worker.report)
    assert [row.segment for row in worker.report] == [segment.name for segment in a_labelmap.segments]
    assert abs(worker.report[3].median_hu - 400) < 20 and worker.report[3].off
    worker.submit(a_labelmap)
    assert worker.report is None and worker.reporting


def test_an_idle_child_gives_its_memory_back_and_the_next_job_starts_another(a_temporary_folder, a_labelmap):
    with Worker(PipeTransport(engine="Testing.worker.standin_engine:draw", idle=0.3)) as worker:
        worker.generate(a_labelmap)
        pid = worker.transport.process.pid
        assert ends(pid, seconds=5.0)
        assert worker.generate(a_labelmap).volume.array.any() and worker.transport.process.pid != pid
    assert list(a_temporary_folder.iterdir()) == []


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3])
def test_a_child_killed_at_any_moment_leaves_nothing_and_the_next_job_works(a_worker_with, a_labelmap, moment):
    """A few moments here; ``python Testing/host/benchmark.py`` kills a hundred."""
    worker = a_worker_with("obey_or_draw")
    worker.submit(a_labelmap, Request(seed=666))
    folder = worker.transport.folder
    time.sleep(moment)
    worker.transport.process.kill()
    with pytest.raises(SynthesisFailed, match="ended unexpectedly"):
        wait_for(worker, Result)
    assert not folder.exists() and not worker.busy
    assert worker.generate(a_labelmap, Request(seed=1)).volume.array.any()


@pytest.mark.parametrize(("engine", "warm_afterwards"), [("obey", True), ("ignore", False)])
def test_cancel_takes_less_than_a_second(a_worker_with, a_labelmap, engine, warm_afterwards):
    worker = a_worker_with(engine)
    worker.submit(a_labelmap)
    while wait_for(worker, Progress).stage != "Working":
        pass
    pid, start = worker.transport.process.pid, time.monotonic()
    worker.cancel()
    with pytest.raises(Cancelled):
        wait_for(worker, Result)
    assert time.monotonic() - start < 1.2
    assert is_running(pid) is warm_afterwards
    assert not worker.busy


def test_a_crash_is_one_sentence_and_the_next_job_works(a_worker_with, a_labelmap):
    worker = a_worker_with("crash_or_draw")
    with pytest.raises(SynthesisFailed, match=r"ended unexpectedly \(exit code 11\)"):
        worker.generate(a_labelmap, Request(seed=666))
    assert worker.generate(a_labelmap, Request(seed=1)).volume.array.any()


def test_a_child_killed_between_jobs_is_replaced(a_worker_with, a_labelmap):
    worker = a_worker_with("draw")
    worker.generate(a_labelmap)
    worker.transport.process.kill()
    worker.transport.process.wait()
    assert worker.generate(a_labelmap).volume.array.any()


def test_closing_leaves_no_process_and_no_file(a_worker_with, a_labelmap, a_temporary_folder):
    worker = a_worker_with("ignore")
    worker.submit(a_labelmap)
    wait_for(worker, Progress)
    pid = worker.transport.process.pid
    worker.close()
    assert ends(pid)
    assert list(a_temporary_folder.iterdir()) == []


def test_nothing_is_left_when_the_asking_process_is_killed(tmp_path):
    script = (
        "import time\nfrom CTSynthesisLib.worker import Worker\nfrom CTSynthesisLib.worker.transport import PipeTransport\n"
        "from Testing.phantom import thorax\n"
        "worker = Worker(PipeTransport(engine='Testing.worker.standin_engine:ignore'))\nworker.submit(thorax(shape=(4, 8, 8)))\n"
        "while worker.poll() is None: time.sleep(0.01)\nprint(worker.transport.process.pid, flush=True)\ntime.sleep(60)"
    )
    root = Path(__file__).parents[2]
    environment = dict(os.environ, TMPDIR=str(tmp_path), PYTHONPATH=str(root))
    asking = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(asking.stdout.readline())
    assert is_running(pid) and any(tmp_path.iterdir())
    asking.kill()
    asking.wait()
    asking.stdout.close()
    assert ends(pid)
    assert list(tmp_path.iterdir()) == []


def test_another_version_is_refused_in_words():
    with pytest.raises(SynthesisFailed, match="The worker is version 0.0.9, but this is"):
        check_hello({"say": "hello", "protocol": 1, "version": "0.0.9"})


def test_slicers_python_is_used_beside_the_application(tmp_path, monkeypatch):
    application = tmp_path / "SlicerApp-real"
    monkeypatch.setattr(sys, "executable", str(application))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SynthesisFailed, match="No PythonSlicer was found"):
        python_executable()
    (tmp_path / "PythonSlicer").touch()
    assert python_executable() == str(tmp_path / "PythonSlicer")


def test_segments_survive_the_protocol(a_worker_with, a_labelmap):
    segment = Segment(1, "Herz ♥", ("SCT", "80891009", "Heart"), ("SCT", "7771000", "Left"), (0.1, 0.2, 1 / 3), 55.5)
    labelmap = type(a_labelmap)(a_labelmap.array, a_labelmap.geometry, (segment,))
    assert a_worker_with("draw").generate(labelmap).understood[0].segment == segment
