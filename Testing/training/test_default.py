"""The default model's recipe, from a folder of scans to a model file that generates."""

import numpy as np

from CTSynthesisLib.cli import main
from CTSynthesisLib.modelstore import load_card
from CTSynthesisLib.synthesis.generate import generate
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.training.slab_data import load_cases


def test_training_leaves_a_model_that_generates(a_folder_of_scans, tmp_path, a_labelmap):
    out = tmp_path / "trained"
    command = ["train", "default", "--data", str(a_folder_of_scans), "-o", str(out), "--iterations", "2", "--leave-out", "two"]
    assert main(command) == 0
    card = load_card(str(out / "default.safetensors"))
    assert card.training_data == ["one"] and card.version == "2"
    assert generate(a_labelmap, Request(model=card.path)).volume.array.dtype == np.int16


def test_cases_are_prepared_once_and_without_masks(a_folder_of_scans, tmp_path):
    said = []
    first = load_cases(a_folder_of_scans, tmp_path, report=said.append)
    again = load_cases(a_folder_of_scans, tmp_path, report=said.append)
    assert [case.name for case in first] == ["one", "two"] and len(said) == 2
    np.testing.assert_array_equal(first[0].values, again[0].values)
    assert {4, 1} <= set(np.unique(first[0].values))  # lungs and soft tissue were found


def test_a_folder_without_cases_is_refused(tmp_path, capsys):
    assert main(["train", "default", "--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "ct.nrrd" in capsys.readouterr().err
