from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.model import MaskedModel, Step
from mmim.objectives.contrastive import Contrastive
from tests.several import SEVERAL, batch_of
from tests.videomae import float64, redraw


def model_of(**fields):
    model = MaskedModel(replace(SEVERAL, objective={"contrastive": Contrastive(**fields)})).double()
    redraw(model)
    return model


def vectors(model, batch, name):
    """The mean visible latents of a modality alone, with its own norms."""
    return Step(model, batch).latents((name,), own=True).mean()


def info_nce(one, other, temperature, directions):
    """Cross-entropy of cosines, from torch's own function."""
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).mT / temperature
    labels = torch.arange(len(one))
    losses = F.cross_entropy(logits, labels, reduction="sum")
    if directions == "both":
        losses = (losses + F.cross_entropy(logits.mT, labels, reduction="sum")) / 2
    return losses


@pytest.mark.parametrize("directions", ["one", "both"])
@pytest.mark.parametrize("learned", [False, True])
def test_equals_cross_entropy_of_the_cosines(directions, learned):
    with float64():
        model, batch = model_of(directions=directions, temperature=0.3, learned=learned, weight=2.0), batch_of(5)
        temperature = dict.fromkeys(combinations("abc", 2), 0.3)
        if learned:
            scales = model.terms["contrastive"].log_scale
            temperature = {pair: (-scales["_".join(pair)]).exp() for pair in temperature}
        found = model(batch)
        for pair, tau in temperature.items():
            one, other = (vectors(model, batch, name) for name in pair)
            term = found[f"contrastive/{'_'.join(pair)}"]
            assert_close(term.total, 2 * info_nce(one, other, tau, directions), rtol=1e-10, atol=1e-10)
            assert term.count == 5


def test_a_projection_stands_before_the_comparison():
    with float64():
        model, batch = model_of(width=3, pairs=(("c", "a"),)), batch_of(4)
        project = model.terms["contrastive"].project
        one, other = (project[name](vectors(model, batch, name)) for name in ("c", "a"))
        term = model(batch)["contrastive/c_a"]
    assert_close(term.total, info_nce(one, other, 0.07, "both"), rtol=1e-10, atol=1e-10)


def test_centred_vectors_are_compared_without_what_all_have_in_common():
    with float64():
        model, batch = model_of(centred=True, pairs=(("a", "b"),)), batch_of(4)
        one, other = (vectors(model, batch, name) for name in ("a", "b"))
        term = model(batch)["contrastive/a_b"]
    expected = info_nce(one - one.mean(dim=0), other - other.mean(dim=0), 0.07, "both")
    assert_close(term.total, expected, rtol=1e-8, atol=1e-8)


def test_a_pair_without_a_partner_drops_out_as_a_row_and_as_a_negative():
    with float64():
        model = model_of(pairs=(("a", "b"),), centred=True)
        lacking, batch = batch_of(6, "a: 0 2 3 5, b: 0 1 3 5"), batch_of(6)
        one, other = (vectors(model, lacking, name)[[0, 3, 5]] for name in ("a", "b"))
        term = model(lacking)["contrastive/a_b"]
        having = {"a": [0, 2, 3, 5], "b": [0, 1, 3, 5]}
        means = [vectors(model, batch, name)[rows].mean(dim=0) for name, rows in having.items()]
    assert term.count == 3
    assert_close(term.total, info_nce(one - means[0], other - means[1], 0.07, "both"), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("there", ["a:", "a: 0, b: 1", "a: 2"])
def test_with_no_negative_or_no_pair_the_loss_is_zero_and_finite(there):
    with float64():
        model = model_of(pairs=(("a", "b"),), learned=True, centred=True)
        term = model(batch_of(3, there))["contrastive/a_b"]
        term.total.backward()
    assert term.total.detach().abs() < 1e-9
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_learned_temperature_does_not_fall_below_a_hundredth():
    with float64():
        model, batch = model_of(pairs=(("a", "b"),), learned=True), batch_of(4)
        with torch.no_grad():
            model.terms["contrastive"].log_scale["a_b"].fill_(100.0)
        one, other = (vectors(model, batch, name) for name in ("a", "b"))
        term = model(batch)["contrastive/a_b"]
    assert_close(term.total, info_nce(one, other, 0.01, "both"), rtol=1e-8, atol=1e-8)


def test_all_pairs_in_the_order_of_the_method_unless_some_are_named():
    assert MaskedModel(SEVERAL).terms["contrastive"].pairs == (("a", "b"), ("a", "c"), ("b", "c"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 0.0}, "Contrastive.temperature is 0.0; it must be above 0"),
        ({"pairs": (("a", "a"),)}, "two different modalities"),
        ({"pairs": (("a", "b"), ("b", "a"))}, "pairs that are named once"),
        ({"weight": -1.0}, "Contrastive.weight is -1.0"),
    ],
)
def test_fields_that_can_not_be_are_refused(fields, said):
    with pytest.raises(OptionError, match=said):
        Contrastive(**fields)


def test_one_modality_alone_can_not_be_contrasted():
    with pytest.raises(OptionError, match="compares two modalities, and there is a"):
        Contrastive().check(["a"])
