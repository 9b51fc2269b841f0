"""Several modalities in one model, of which any sample may lack any."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mmim.encoders.encoder import Pass
from mmim.errors import OptionError
from mmim.model import MaskedModel, Step
from tests.several import RECONSTRUCTION, SEVERAL, SHARED, batch_of, rows_of
from tests.videomae import float64, redraw

ROOT = Path(__file__).parents[2]
THERE = {
    "everybody": "",
    "some": "a: 0 2, b: 1 2 3, c: 0 3",
    "one lacks all": "a: 0 1, b: 1 2, c: 0 2",
    "one modality nowhere": "c:",
    "one modality only": "a:, c:",
    "nothing at all": "a:, b:, c:",
}
METHODS = {"ratio": SEVERAL, "dirichlet": SHARED}


def built(method):
    model = MaskedModel(method).double()
    redraw(model)
    return model


def losses(model, batch):
    """Sums and counts, and the gradients of the sum of all sums."""
    model.zero_grad()
    terms = model(batch)
    sum(term.total for term in terms.values()).backward()
    return terms, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("there", THERE.values(), ids=THERE)
@pytest.mark.parametrize("method", METHODS)
def test_any_absence_gives_finite_losses_and_a_gradient_for_every_parameter(method, there):
    with float64():
        terms, gradients = losses(built(METHODS[method]), batch_of(4, there))
    assert all(term.total.isfinite() for term in terms.values())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("there", THERE.values(), ids=THERE)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_the_sum_of_its_samples_alone(method, there):
    with float64():
        model = built(replace(METHODS[method], objective=RECONSTRUCTION))
        batch = batch_of(4, there)
        whole, gradients = losses(model, batch)
        alone = [losses(model, rows_of(batch, [row])) for row in range(4)]
    for name, term in whole.items():
        assert_close(sum(terms[name].total for terms, _ in alone), term.total, rtol=1e-10, atol=1e-12)
        assert sum(terms[name].count for terms, _ in alone) == term.count
    for name, gradient in gradients.items():
        assert_close(sum(each[name] for _, each in alone), gradient, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("there", THERE.values(), ids=THERE)
@pytest.mark.parametrize("method", METHODS)
def test_garbage_in_absent_places_changes_nothing(method, there):
    with float64():
        model = built(METHODS[method])
        clean, gradients = losses(model, batch_of(4, there))
        stuffed, others = losses(model, batch_of(4, there, zeros=False))
    for name, term in clean.items():
        assert_close(stuffed[name].total, term.total, rtol=1e-10, atol=1e-12)
        assert stuffed[name].count == term.count
    for name, gradient in gradients.items():
        assert_close(others[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("there", THERE.values(), ids=THERE)
@pytest.mark.parametrize("method", METHODS)
def test_counts_are_known_without_running_the_network(method, there):
    with float64():
        model, batch = built(METHODS[method]), batch_of(4, there)
        terms, counts = model(batch), model.counts(batch)
    assert {name: term.count for name, term in terms.items()} == counts


@pytest.mark.parametrize("there", ["", THERE["some"]])
def test_packing_changes_no_latent(there):
    with float64():
        model, batch = built(SHARED), batch_of(4, there)
        step = Step(model, batch)
        packed = step.latents()
        visible = {name: step.branch(name) for name in step.given}
        layout = tuple((name, step.tokens[name].count) for name in step.given)
        loose = model.trunk.encoder.joint(visible, layout, batch.present, Pass())
    assert packed.values.shape[1] == 10 < loose.values.shape[1]
    for row in range(4):
        ours, theirs = (
            {int(at): value for at, value, valid in zip(x.at[row], x.values[row], x.valid[row], strict=True) if valid}
            for x in (packed, loose)
        )
        assert set(ours) == set(theirs)
        for at, value in ours.items():
            assert_close(value, theirs[at], rtol=1e-10, atol=1e-12)
        assert_close(packed.globals[row], loose.globals[row], rtol=1e-10, atol=1e-12)


def test_a_shared_budget_fills_the_shared_blocks_of_a_full_sample():
    with float64():
        valid = Step(built(SHARED), batch_of(6)).latents().valid
    assert valid.all()


@pytest.mark.parametrize("globals_", [0, 1])
@pytest.mark.parametrize("there", ["a: 0 1, b: 1 2", "a:, b:", "a: 0, b:, c: 1 2"])
def test_who_has_only_what_is_never_an_input_is_predicted_from_nothing(there, globals_):
    encoder = replace(SHARED.encoder, global_tokens=globals_)
    never = replace(SHARED.budget, alphas={"c": 0.0})
    with float64():
        model = built(replace(SHARED, objective=RECONSTRUCTION, budget=never, encoder=encoder))
        batch = batch_of(4, there)
        whole, gradients = losses(model, batch)
        alone = [losses(model, rows_of(batch, [row])) for row in range(4)]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for name, term in whole.items():
        assert_close(sum(terms[name].total for terms, _ in alone), term.total, rtol=1e-10, atol=1e-12)
    for name, gradient in gradients.items():
        assert_close(sum(each[name] for _, each in alone), gradient, rtol=1e-9, atol=1e-11, msg=name)


def test_what_nobody_has_is_not_computed():
    model = MaskedModel(SEVERAL)
    asked = []
    for name, embedder in model.trunk.embedders.items():
        embedder.register_forward_hook(lambda module, inputs, output, name=name: asked.append(name))
    model(batch_of(3, "b:"))
    assert asked == ["a", "c"]


def test_a_modality_alone_uses_its_own_norms_and_a_joint_pass_the_shared_ones():
    with float64():
        model, batch = built(SEVERAL), batch_of(3)
        before = {names: model.embed(batch, names) for names in (("a",), ("a", "b"))}
        with torch.no_grad():
            model.trunk.encoder.own_norm["a"].weight += 0.1
            model.trunk.encoder.blocks[0].own["a"]["norm1"].bias += 0.1
        after = {names: model.embed(batch, names) for names in before}
    assert not torch.allclose(before["a",], after["a",])
    assert torch.equal(before["a", "b"], after["a", "b"])


def test_an_embedding_of_a_subset_is_that_of_a_sample_which_has_no_more():
    with float64(), torch.no_grad():
        model = built(SEVERAL).eval()
        some = model.embed(batch_of(4), ("a", "c"))
        lacking = model.embed(batch_of(4, "b:"))
    assert_close(some, lacking, rtol=1e-10, atol=1e-12)


def test_the_embedding_of_who_has_nothing_is_zero():
    model = MaskedModel(SEVERAL).eval()
    with torch.no_grad():
        assert not model.embed(batch_of(2, "a:, b: 0"), ("a",)).any()
        assert not model.embed(batch_of(2, "a:, b: 0"), ("b",))[1].any()
        assert not model.embed(batch_of(3, "a: 0, b: 1"), ("a", "b"))[2].any()
        assert model.embed(batch_of(2, "a:, b: 0"), ("b",))[0].any()


@pytest.mark.parametrize("term", ["reconstruction", "contrastive"])
def test_a_term_of_weight_zero_is_left_out_with_all_that_only_it_needs(term):
    objective = {**SEVERAL.objective, term: replace(SEVERAL.objective[term], weight=0.0)}
    model = MaskedModel(replace(SEVERAL, objective=objective))
    terms = model(batch_of(3))
    assert not any(name.startswith(term) for name in terms)
    assert bool(model.decoders) is (term == "contrastive")
    sum(loss.total for loss in terms.values()).backward()


def test_modalities_may_share_an_embedder():
    modalities = {**SEVERAL.modalities, "b": replace(SEVERAL.modalities["b"], columns=4)}
    model = MaskedModel(replace(SEVERAL, modalities=modalities, shared_embedders={"b": "a"}))
    assert set(model.trunk.embedders) == {"a", "c"}
    assert model.trunk.embedder("b") is model.trunk.embedder("a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"shared_embedders": {"b": "a"}},
            r"'b' can't use the embedder of 'a': its pieces are \(3,\), the other's \(4,\)",
        ),
        ({"shared_embedders": {"b": "d"}}, "shared_embedders has 'b' use the embedder of 'd'"),
        (
            {"objective": {"contrastive": replace(SEVERAL.objective["contrastive"], pairs=(("a", "d"),))}},
            "Contrastive.pairs names 'd'; there are a, b, c",
        ),
        ({"budget": replace(SHARED.budget, alphas={"d": 1.0})}, "Dirichlet.alphas names 'd'; there are a, b, c"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_line(changes, said):
    with pytest.raises(OptionError, match=said):
        MaskedModel(replace(SEVERAL, **changes))


def test_a_modality_that_is_never_an_input_is_still_predicted():
    with float64():
        model = built(replace(SHARED, budget=replace(SHARED.budget, alphas={"c": 0.0})))
        step = Step(model, batch_of(3))
        terms, gradients = losses(model, batch_of(3))
    assert [name for name, _ in step.latents().layout] == ["a", "b"]
    assert terms["reconstruction/c"].count == 3 * 6
    assert not gradients["trunk.embedders.c.weight"].any()
    assert gradients["decoders.own.mask_token"].any()


@pytest.mark.slow
def test_one_graph_serves_all_presences_and_draws():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/mmim/compiled_several.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        assert found["graphs"] == 1, name
        for compiled, eager in zip(found["compiled"], found["eager"], strict=True):
            assert compiled == pytest.approx(eager, rel=1e-4, abs=1e-5), name
