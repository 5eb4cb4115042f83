"""The live preview through the worker: the newest edit first, little traffic, and nothing lost when the child dies."""

import time

import numpy as np
import pytest

from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap
from CTSynthesisLib.worker import PreviewReady, Worker
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_request(tmp_path_factory):
    return Request(model=save_random_model(tmp_path_factory.mktemp("models")).path, seed=2, inside="plain")


@pytest.fixture(scope="module")
def a_labelmap():
    return thorax(shape=(14, 40, 44), spacing=(8.0, 8.0, 8.0))


@pytest.fixture(scope="module")
def a_worker(a_labelmap):
    """One for all tests here: it has PyTorch to load."""
    with Worker() as worker:
        yield worker


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")


def wait(worker, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition(worker.poll())):
        assert time.monotonic() < deadline, "the worker did not get there in time"
        time.sleep(0.005)
    return found


def begun(worker, labelmap, request, **arguments):
    worker.submit_preview(labelmap, request, **arguments)
    return wait(worker, lambda news: news if isinstance(news, PreviewReady) else None)


def put(volume, slices):
    for piece in slices:
        volume[tuple(slice(s, s + n) for s, n in zip(piece.start, piece.array.shape, strict=True))] = piece.array
    slices.clear()
    return volume


def test_the_slice_that_is_looked_at_comes_first_and_then_what_else_the_edit_reaches(a_worker, a_labelmap, a_request):
    full = generate(a_labelmap, a_request).volume.array
    ready = begun(a_worker, a_labelmap, a_request, look=6)
    assert ready.axis == 0 and ready.estimate.shape == full.shape and a_worker.device.startswith(("CPU", "NVIDIA", "Apple"))
    volume = ready.estimate.copy()
    wait(a_worker, lambda _: a_worker.slices)
    assert [piece.start[0] for piece in a_worker.slices] == [6]
    np.testing.assert_allclose(put(volume, a_worker.slices)[6], full[6], atol=1)
    a_worker.edit(look=9)  # scrolled
    wait(a_worker, lambda _: a_worker.slices)
    np.testing.assert_allclose(put(volume, a_worker.slices)[9], full[9], atol=1)

    edited = a_labelmap.array.copy()
    edited[9, 10:14, 10:14] = 4
    full = generate(LabelMap(edited, a_labelmap.geometry, a_labelmap.segments), a_request).volume.array
    a_worker.edit(9, (9, 10, 10), edited[9:10, 10:14, 10:14])
    wait(a_worker, lambda _: len(a_worker.slices) == 2)  # 6 lies within four slices; nobody has looked at the others
    assert [piece.start[0] for piece in a_worker.slices] == [9, 6] and a_worker.slices[0].edits == 2
    np.testing.assert_allclose(put(volume, a_worker.slices)[[6, 9]], full[[6, 9]], atol=1)


def test_edits_do_not_queue(a_worker, a_labelmap, a_request):
    begun(a_worker, a_labelmap, a_request, look=6, shown=True)
    last = [a_worker.edit(6, (6, 10, n), np.full((1, 3, 1), 4, np.uint16)) for n in range(25)][-1]
    wait(a_worker, lambda _: a_worker.slices and a_worker.slices[-1].edits == last)
    assert sum(piece.start[0] == 6 for piece in a_worker.slices) < 20
    a_worker.forget_preview()


def test_the_next_run_ends_neither_the_worker_nor_its_preview(a_worker, a_labelmap, a_request):
    begun(a_worker, a_labelmap, a_request, look=3, shown=True)
    pid = a_worker.transport.process.pid
    a_worker.generate(a_labelmap, a_request)
    a_worker.edit(3, (3, 10, 10), np.full((1, 3, 3), 4, np.uint16))
    wait(a_worker, lambda _: any(piece.start[0] == 3 for piece in a_worker.slices))
    assert a_worker.transport.process.pid == pid


def test_a_dead_child_ends_the_preview_quietly(a_worker, a_labelmap, a_request):
    begun(a_worker, a_labelmap, a_request, look=3, shown=True)
    a_worker.transport.process.kill()
    a_worker.transport.process.wait()
    wait(a_worker, lambda _: not a_worker.previewing)
    a_worker.edit(3)
    begun(a_worker, a_labelmap, a_request, look=3)


def test_what_cannot_be_previewed_is_refused_in_words(a_worker, a_labelmap, a_request):
    a_worker.submit_preview(LabelMap(np.zeros_like(a_labelmap.array), a_labelmap.geometry, a_labelmap.segments), a_request)
    with pytest.raises(UnusableInput, match="no voxel belongs to any segment"):
        wait(a_worker, lambda news: isinstance(news, PreviewReady))
    assert not a_worker.previewing and not a_worker.busy
