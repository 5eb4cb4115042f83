"""What is kept of an evaluation comes back while everything it came from is the same."""

import numpy as np

from CTSynthesisLib.evaluation.kept import Kept, key_of, source_of
from CTSynthesisLib.files import read_volume
from Testing.evaluation.persons import a_person


def test_a_volume_comes_back_under_its_key_only(tmp_path):
    kept, person = Kept(tmp_path), a_person()
    kept.keep_volume("one/contours-given-model", "key", person.ct, Seconds=1.5)
    assert np.array_equal(kept.volume("one/contours-given-model", "key").array, person.ct.array)
    assert kept.volume("one/contours-given-model", "other") is None
    assert kept.volume("two/contours-given-model", "key") is None
    written = read_volume(tmp_path / "volumes" / "one" / "contours-given-model.nrrd")
    assert written.metadata["CTSynthesis.Synthetic"] == "1" and written.metadata["CTSynthesis.Seconds"] == "1.5"


def test_figures_come_back_with_what_could_not_be_measured(tmp_path):
    kept = Kept(tmp_path)
    kept.keep_figures("one", "key", {"a": 1.25, "b": float("nan"), "structures": {"heart": {"voxels": np.int64(3)}}})
    found = kept.figures("one", "key")
    assert found["a"] == 1.25 and np.isnan(found["b"]) and found["structures"]["heart"]["voxels"] == 3
    assert kept.figures("one", "other") is None
    (tmp_path / "figures" / "one.json").write_text('{"key": "k')
    assert kept.figures("one", "key") is None, "broken off while it was written"


def test_features_come_back(tmp_path):
    kept = Kept(tmp_path)
    kept.keep_features("one", "key", {"axial": np.eye(3)})
    assert np.array_equal(kept.features("one", "key")["axial"], np.eye(3))
    assert kept.features("one", "other") is None


def test_keys_differ_with_content_and_code():
    array = np.arange(6).reshape(2, 3)
    assert key_of("a", array) == key_of("a", array.copy())
    assert len({key_of("a", array), key_of("a", array + 1), key_of("a", array.reshape(3, 2)), key_of("b", array)}) == 4
    assert source_of("evaluation/image.py") != source_of("evaluation/coherence.py")
