"""Whether a classifier still sees what was erased: its samples on a made-up chest, and its figures by hand."""

import numpy as np
import pytest

from CTSynthesisLib.evaluation import nodule_seen
from CTSynthesisLib.files import write_volume
from CTSynthesisLib.synthesis.nodule_shape import Nodule
from Testing.nodule_chest import LEFT, chest, chest_and_lungs, untrained


def test_cubes_show_nodules_healthy_lung_and_what_was_erased(tmp_path, monkeypatch):
    for name in ("nodule_injector", "nodule_eraser"):
        untrained(tmp_path, name)
    monkeypatch.setattr("CTSynthesisLib.modelstore.MODELS", tmp_path)
    write_volume(chest_and_lungs()[0], tmp_path / "ct.nrrd")
    cubes = nodule_seen.cubes_of(tmp_path, 2, 0)
    assert {name: cube.shape for name, cube in cubes.items()} == dict.fromkeys(("injected", "healthy", "erased"), (2, 32, 32, 32))
    middle = {name: np.median(cube[:, 13:19, 13:19, 13:19], axis=(1, 2, 3)) for name, cube in cubes.items()}
    assert middle["healthy"].max() < -750 and min(middle["injected"] - middle["healthy"]) > 100
    assert middle["erased"].mean() < middle["injected"].mean() - 150, middle
    voxels, labels = nodule_seen.samples([cubes])
    assert labels.tolist() == [1, 1, 0, 0] and (voxels[:2] == cubes["injected"]).all()


@pytest.mark.parametrize(("level", "kind"), [(-850.0, "ground-glass"), (-700.0, "part-solid")])
def test_where_ground_glass_hardly_shows_it_has_a_solid_part(level, kind):
    volume = chest(level=level)
    labels = np.where(volume.array < -500, nodule_seen.VALUE["lungs"], 0).astype(np.uint8)
    assert nodule_seen._that_shows(Nodule(10.0, "ground-glass"), volume, labels, LEFT).kind == kind


def test_figures_by_hand():
    said = {"injected": np.array([0.9, 0.2]), "healthy": np.array([0.1, 0.55]), "real": np.array([0.8]), "erased": np.array([0.2, 0.6])}
    found = nodule_seen.figures(said)
    assert found["accuracy"] == 3 / 5 and found["erased_called_clean"] == 0.5 and found["real_called_nodule"] == 1.0
    assert found["counts"] == {"injected": 2, "healthy": 2, "real": 1, "erased": 2}
