"""When memory runs out: smaller blocks, then the CPU. No card here: what it would raise is raised in its place (stand-in)."""

import numpy as np
import pytest
import torch

from CTSynthesisLib.errors import SynthesisFailed
from CTSynthesisLib.synthesis import mask_cgan, within_memory
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.request import Request
from Testing.phantom import thorax
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_model(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("models")).path


@pytest.fixture
def a_card_that(monkeypatch):
    """STAND-IN for a graphics card: computes on the CPU, and raises ``error`` for blocks of more than ``room`` voxels."""

    def make(error, room=0):
        load, block = mask_cgan.load, mask_cgan.MaskCGAN._block

        def load_on(card, device="auto"):
            model = load(card, "cpu")
            return model if device == "cpu" else mask_cgan.MaskCGAN(card, model.network, model.hu_map, "the card", model.dtype)

        def compute(self, condition, block_, *rest):
            if self.device == "the card":
                if np.prod([b - a for a, b in block_.outer]) > room:
                    raise error
                self = load_on(self.card, "cpu")
            return block(self, condition, block_, *rest)

        monkeypatch.setattr(mask_cgan, "load", load_on)
        monkeypatch.setattr(mask_cgan.MaskCGAN, "_block", compute)
        monkeypatch.setattr(mask_cgan, "choose_device", lambda device: "cuda" if device == "auto" else device)

    return make


def test_a_card_with_little_memory_gets_smaller_blocks(a_model, a_card_that, monkeypatch):
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")
    a_labelmap = thorax(shape=(40, 24, 28), spacing=(12.0, 12.0, 3.0))
    request = Request(model=a_model, inside="plain")
    expected = generate(a_labelmap, request)
    monkeypatch.setattr(within_memory, "VOXELS_AT_ONCE", 41 * 1024)
    monkeypatch.setattr(within_memory, "SMALLEST_BLOCK", 1024)
    a_card_that(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.38 GiB."), room=20 * 1024)
    result = generate(a_labelmap, request)
    assert result.device == "the card" and any("smaller blocks" in sentence for sentence in result.assumptions)
    np.testing.assert_allclose(result.volume.array, expected.volume.array, atol=1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory did not suffice"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "does not fit"),
    ],
)
def test_a_card_that_cannot_do_it_gives_way_to_the_cpu_and_that_is_said(a_model, a_labelmap, a_card_that, error, reason):
    request = Request(model=a_model)
    expected = generate(a_labelmap, request).volume.array
    a_card_that(error)
    result = generate(a_labelmap, request)
    assert result.device == "cpu" and any(reason in sentence and "CPU was used" in sentence for sentence in result.assumptions)
    np.testing.assert_array_equal(result.volume.array, expected)


def test_without_any_memory_one_sentence_says_so(a_model, a_labelmap, monkeypatch):
    def compute(*_):
        raise MemoryError

    monkeypatch.setattr(mask_cgan.MaskCGAN, "_block", compute)
    with pytest.raises(SynthesisFailed, match="Memory ran out"):
        generate(a_labelmap, Request(model=a_model))
