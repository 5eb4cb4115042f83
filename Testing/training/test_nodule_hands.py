"""What injects and erases in the nodule experiment: the networks, or a sentence that they are missing."""

import numpy as np
import pytest

from CTSynthesisLib import modelstore
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.synthesis.nodule_shape import Nodule
from CTSynthesisLib.training.nodule_hands import networks
from CTSynthesisLib.volume import Geometry, Volume
from Testing.nodule_chest import ras_of, untrained


def test_without_models_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(modelstore, "MODELS", tmp_path)
    with pytest.raises(UnusableInput, match="nodule_injector"):
        networks()


def test_the_networks_put_a_nodule_where_it_is_wanted_and_take_it_out(tmp_path):
    hands = networks(*(untrained(tmp_path, f"nodule_{name}") for name in ("injector", "eraser")))
    geometry = Geometry.from_spacing((36, 60, 60), (1.5, 1.5, 2.0), (45.0, 45.0, -36.0))
    lung = Volume(np.rint(np.random.default_rng(1).normal(-850, 30, geometry.shape)).astype(np.int16), geometry)
    centre, there = ras_of(geometry, (20, 28, 33)), (slice(19, 22), slice(27, 30), slice(32, 35))
    made = hands.inject(lung, tuple(centre), Nodule(14.0, "solid", "smooth", 2))
    assert made.array[there].mean() == pytest.approx(15, abs=60) and (made.array[:5] == lung.array[:5]).all()
    erased = hands.erase(made, tuple(centre), 14.0)
    assert erased.array[there].mean() == pytest.approx(-850, abs=60) and (erased.array[:5] == lung.array[:5]).all()
    assert "nodule_injector" in hands.name and "nodule_eraser" in hands.name
