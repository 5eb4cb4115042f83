"""What injects and erases in the nodule experiment: the networks where they are installed, else the parametric composite, and told so."""

import numpy as np
import pytest

from CTSynthesisLib import modelstore
from CTSynthesisLib.synthesis.nodule_shape import Nodule
from CTSynthesisLib.training.nodule_hands import PARAMETRIC, default_hands, networks
from CTSynthesisLib.volume import Geometry, Volume
from Testing.nodule_phantom import ras_of


def test_without_models_it_says_what_it_does_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(modelstore, "MODELS", tmp_path)
    told = []
    assert default_hands(told.append) is PARAMETRIC
    assert len(told) == 1 and PARAMETRIC.name in told[0]


def test_the_networks_put_a_nodule_where_it_is_wanted_and_take_it_out(tmp_path):
    nodule_chest = pytest.importorskip("Testing.nodule_chest", reason="the networks that inject and erase are not part of this version")
    hands = networks(*(nodule_chest.untrained(tmp_path, f"nodule_{name}") for name in ("injector", "eraser")))
    geometry = Geometry.from_spacing((36, 60, 60), (1.5, 1.5, 2.0), (45.0, 45.0, -36.0))
    lung = Volume(np.rint(np.random.default_rng(1).normal(-850, 30, geometry.shape)).astype(np.int16), geometry)
    centre, there = ras_of(geometry, (20, 28, 33)), (slice(19, 22), slice(27, 30), slice(32, 35))
    made = hands.inject(lung, tuple(centre), Nodule(14.0, "solid", "smooth", 2))
    assert made.array[there].mean() == pytest.approx(15, abs=60) and (made.array[:5] == lung.array[:5]).all()
    erased = hands.erase(made, tuple(centre), 14.0)
    assert erased.array[there].mean() == pytest.approx(-850, abs=60) and (erased.array[:5] == lung.array[:5]).all()
    assert "nodule_injector" in hands.name and "nodule_eraser" in hands.name
