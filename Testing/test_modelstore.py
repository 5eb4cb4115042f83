"""Model files: cards, checksums, and what is said when something is wrong."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from CTSynthesisLib import modelstore
from CTSynthesisLib.cli import main
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.modelstore import import_model, load_card, load_weights, models, remove_model, save_model
from Testing.synthesis.models import save_random_model


@pytest.fixture
def a_card(tmp_path):
    return save_random_model(tmp_path)


def test_weights_come_back_as_they_were_saved(tmp_path):
    weights = {"layer.weight": torch.tensor([[1.5, -2.25]])}
    card = save_model(tmp_path, weights, name="m", title="M", kind="slab_gan", version="1", description="", network={}, hu_map={})
    torch.testing.assert_close(load_weights(card), weights)
    assert Path(card.path).stat().st_size == card.bytes
    assert not list(tmp_path.glob("*.part"))


def test_a_model_is_found_by_the_path_of_either_file(a_card):
    assert load_card(a_card.path) == load_card(str(Path(a_card.path).with_suffix(".json"))) == a_card


def test_every_model_that_ships_is_whole():
    cards = models()
    assert cards[0].name == "default"
    for card in cards:
        card.check()
        assert card.bytes <= 16e6 and card.licence and card.training_data and card.command and card.limits
    assert sum(card.bytes for card in cards) <= 40e6


def test_damaged_weights_are_refused(a_card):
    path = Path(a_card.path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnusableInput, match="checksum"):
        load_weights(a_card)


def test_missing_weights_are_told(a_card):
    Path(a_card.path).unlink()
    with pytest.raises(UnusableInput, match="missing"):
        load_weights(a_card)


def test_an_unknown_model_is_told_with_the_known_ones():
    with pytest.raises(UnusableInput, match="'nonsense'.*default"):
        load_card("nonsense")


def test_a_card_that_is_none_is_refused(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(UnusableInput, match="not a model card"):
        load_card(str(tmp_path / "odd.json"))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path, a_card):
    path = Path(a_card.path)
    path.write_bytes(b"not weights at all")
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(UnusableInput, match="not a safetensors file"):
        load_weights(load_card(str(path)))


def test_models_are_imported_into_the_users_folder_and_removed_again(a_card, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modelstore, "IMPORTED", tmp_path / "mine")
    assert main(["models", "import", a_card.path]) == 0
    assert "random" in [card.name for card in models()] and load_card("random").imported
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["random.json", "random.safetensors"]
    with pytest.raises(UnusableInput, match="installed already"):
        import_model(a_card.path)
    with pytest.raises(UnusableInput, match="belongs to the extension"):
        remove_model("default")
    assert main(["models", "remove", "random"]) == 0
    assert "random" not in [card.name for card in models()] and list((tmp_path / "mine").iterdir()) == []
    assert main(["models", "import"]) == 2


def test_a_damaged_model_is_not_imported(a_card, tmp_path, monkeypatch):
    monkeypatch.setattr(modelstore, "IMPORTED", tmp_path / "mine")
    Path(a_card.path).write_bytes(b"not weights")
    with pytest.raises(UnusableInput, match="checksum"):
        import_model(a_card.path)
    assert not (tmp_path / "mine").exists()


def test_weights_of_another_network_are_refused(a_card):
    with pytest.raises(UnusableInput, match="do not fit the network"):
        modelstore.load_into(torch.nn.Linear(2, 2), a_card)
