"""Where networks compute in bfloat16, and that CTSYNTHESIS_PRECISION=float32 is heard everywhere."""

from pathlib import Path

import pytest
import torch

import CTSynthesisLib
from CTSynthesisLib.synthesis.mask_cgan import autocast, compute_dtype


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_card_that_only_emulates_bfloat16_computes_in_float32(native, dtype, monkeypatch):
    monkeypatch.delenv("CTSYNTHESIS_PRECISION", raising=False)
    # stands in for a graphics card; every card with CUDA emulates bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert compute_dtype("cuda") == dtype


def test_the_users_precision_is_heard(monkeypatch):
    layer, x = torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("CTSYNTHESIS_PRECISION", raising=False)
    with autocast("cpu"):
        assert layer(x).dtype == torch.bfloat16
    monkeypatch.setenv("CTSYNTHESIS_PRECISION", "float32")
    with autocast("cpu"):
        assert layer(x).dtype == torch.float32


def test_nothing_chooses_its_precision_by_itself():
    """All networks, the trainings' too, compute in the precision of :func:`autocast`, or switch it off where it would round."""
    library = Path(CTSynthesisLib.__file__).parent
    lines = [(file.relative_to(library).as_posix(), line.strip()) for file in library.rglob("*.py")
             for line in file.read_text(encoding="utf-8").splitlines() if "torch.autocast(" in line]  # fmt: skip
    own = [(file, line) for file, line in lines if "enabled=False" not in line]
    assert [file for file, _ in own] == ["synthesis/mask_cgan.py"]
