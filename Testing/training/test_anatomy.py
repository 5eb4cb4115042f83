"""The model of anatomy: its samples, its losses and its alternating update."""

import pytest
import torch

from CTSynthesisLib.modelstore import load_card, load_weights
from CTSynthesisLib.networks.anatomy_generator import AnatomyGenerator, AnatomyGeneratorConfig
from CTSynthesisLib.networks.recurrent_latent import RecurrentLatentConfig
from CTSynthesisLib.synthesis.anatomy_frame import CELLS, drawn_shares
from CTSynthesisLib.synthesis.anatomy_model import draw_field, load_generator
from CTSynthesisLib.training import anatomy
from CTSynthesisLib.training.anatomy import Anatomy, AnatomyRecipe, divergence, export
from CTSynthesisLib.training.anatomy_data import Chests, Person, Variation
from CTSynthesisLib.training.loop import read_log, run

TINY = AnatomyRecipe(
    network=AnatomyGeneratorConfig(RecurrentLatentConfig(patient=4, slices=2, hidden=5), hidden=8, width=(6, 5, 4)),
    batch=3, drawn=1, slab=4, critic_widths=(3, 4), alone=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def two_persons():
    """One is the standard anatomy itself; in the scan of the other, all lies 8 mm further to the front."""
    field = torch.zeros(3, *CELLS)
    other = field.clone()
    other[1] = 8.0
    seen = torch.ones(2 * CELLS[0], dtype=torch.bool)
    return [Person(name, drawn_shares(f[None])[0], seen, f) for name, f in (("one", field), ("two", other))]


@pytest.fixture
def some_chests(two_persons):
    return Chests(two_persons, TINY.variation, slab=TINY.slab, batch=TINY.batch, drawn=TINY.drawn, alone=TINY.alone, seed=4)


def test_a_batch_is_a_function_of_its_number(some_chests):
    batch, again = some_chests(5), some_chests(5)
    assert batch["field"].shape == (3, 3, 36, 20, 28) and batch["shares"].shape == (1, 6, 4, 80, 112)
    assert torch.equal(batch["field"], again["field"]) and not torch.equal(batch["field"], some_chests(6)["field"])
    assert "shares" not in some_chests(0)  # at first, on fields alone


def test_a_field_and_its_tissues_are_bent_together(two_persons):
    chests = Chests(two_persons, Variation(blended=0, bend=8), slab=6, batch=2, drawn=2, alone=0, seed=1)
    batch = chests(0)
    assert batch["known"].all()
    drawn = drawn_shares(batch["field"], batch["first"], 6)
    unbent = drawn_shares(torch.stack([p.field for p in two_persons]), batch["first"], 6)
    error, before = ((shares - batch["shares"]).abs().mean() for shares in (drawn, unbent))
    assert error < 0.02 and error < 0.5 * before


def test_the_divergence_by_hand():
    told = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # mean 1, variance 1; mean 0, log variance 2
    assert divergence(told, 0)[0].item() == pytest.approx(0.5)
    assert divergence(told, 0)[1].item() == pytest.approx(0.5 * (torch.tensor(2.0).exp().item() - 3))


def test_stature_scales_and_shifts_and_its_absence_changes_nothing():
    generator = AnatomyGenerator(TINY.network)
    field = torch.randn(1, 3, 36, 20, 28)
    assert torch.allclose(generator.with_stature(field, torch.zeros(1, 10)), field, atol=1e-3)
    noise = torch.zeros(1, 10)
    noise[0, 1] = 1.0  # longer along k: a place looks further from the middle
    scaled = generator.with_stature(0 * field, noise)
    expected = (torch.tensor(TINY.network.stature.proportion).exp() - 1) * 140.0
    assert scaled[0, 0, -1].mean() == pytest.approx(expected.item(), abs=0.1) and not scaled[0, 1].any()
    noise = torch.tensor([[0.0, 0, 4.0, -4.0, 0, 0, 0, 0, 0, 0]])  # far deeper than wide
    scaled = generator.with_stature(0 * field, noise)
    parted = (scaled[0, 1, 0, -1, 0] / 152.0 + 1).log() - (scaled[0, 2, 0, 0, -1] / 216.0 + 1).log()
    assert parted.item() == pytest.approx(TINY.network.stature.flattest, abs=0.01)


def test_the_patient_noise_gets_the_distribution_that_the_encoder_tells(some_chests, monkeypatch):
    model = Anatomy(TINY)
    told = iter(torch.linspace(-1, 1, anatomy.PRIOR * 3).reshape(anatomy.PRIOR, 3, 1))  # the same number in all four places
    monkeypatch.setattr(model, "encoder", lambda field: (torch.stack([next(told).expand(3, 4), torch.full((3, 4), -4.0)], 1), None))
    mean, factor = model.prior(lambda n: {"field": torch.zeros(3)})
    covariance = factor @ factor.T
    assert mean.abs().max() < 1e-5 and covariance[0, 1].item() == pytest.approx(1 / 3, rel=0.05)
    assert covariance[0, 0].item() == pytest.approx(1 / 3 + torch.tensor(-4.0).exp().item(), rel=0.05)


def test_each_update_moves_its_networks_and_both_critics_teach_the_recurrence(some_chests):
    model = Anatomy(TINY)
    before = {name: value.clone() for name, value in model.networks.state_dict().items()}
    assert "critic" not in model.step(some_chests(0))
    figures = model.step(some_chests(1))
    assert {"critic", "penalty", "adversarial", "tissues", "fields", "information"} <= set(figures)
    after = model.networks.state_dict()
    assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"generator", "encoder", "slice", "slab"}

    noise = model.generator.latent.noise(1, 36)
    shares = drawn_shares(model._drawn_from(*noise), model.first, TINY.slab)
    model.generator.zero_grad()
    model.decisions(shares)[1].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.generator.latent.parameters())


def test_a_training_leaves_a_model_that_draws_and_can_be_gone_on_with(some_chests, two_persons, tmp_path):
    whole, part, again = Anatomy(TINY), Anatomy(TINY), Anatomy(TINY)
    run(whole, some_chests, tmp_path / "whole", iterations=3)
    run(part, some_chests, tmp_path / "part", iterations=2)
    run(again, some_chests, tmp_path / "part", iterations=3, resume=True)
    assert read_log(tmp_path / "part")["fields"] == pytest.approx(read_log(tmp_path / "whole")["fields"])
    prior = torch.full((4,), 2.0), 0.5 * torch.eye(4)
    card = export(tmp_path / "whole", tmp_path / "model", prior, [p.name for p in two_persons], 3, TINY)
    field = draw_field(load_card(card.path), 7)
    assert torch.equal(load_generator(card).as_told(torch.ones(1, 4)), torch.full((1, 4), 2.5))
    assert field.shape == (3, 36, 20, 28) and card.training_data[0].startswith("one:")


def test_the_persons_mean_is_where_the_generator_begins(two_persons, monkeypatch, tmp_path):
    monkeypatch.setattr(anatomy, "load_persons", lambda *args, **more: two_persons)
    anatomy.train(tmp_path, tmp_path / "out", iterations=1, recipe=TINY)
    card = load_card(str(tmp_path / "out" / "anatomy.json"))
    assert card.kind == "anatomy" and not card.generates
    mean = load_weights(card)["mean"]
    assert mean[1].mean() == pytest.approx(4.0, abs=0.01) and not mean[0].any()
