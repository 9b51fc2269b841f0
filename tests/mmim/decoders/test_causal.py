import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch.testing import assert_close

from mmim import checkpoint
from mmim.corruption.sentinels import Sentinels
from mmim.data.order import Layout
from mmim.data.sources import find_samples
from mmim.decoders.causal import CausalDecoder, CausalDecoderModule, _prefix_mask
from mmim.decoders.decoder import Query
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.masking.span import SpanMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.plan import dry_run
from mmim.records import Latents, Tokens
from mmim.targets.ids import Ids
from mmim.training.loop import Job, train
from mmim.training.tracker import Tracker
from tests.ids import PADDING, SPANS, Letters, batch_of, hide, random_letters, write_letters
from tests.toy import TOY, Toy
from tests.videomae import float64, redraw

ROOT = Path(__file__).parents[3]
MODALITIES = {"a": Letters(), "b": Letters(words=4)}
TASKS = {"first": ("a", 19), "again": ("a", 5), "other": ("b", 13)}
LAYOUT = (("a", 8), ("b", 8))


@pytest.fixture
def decoder() -> CausalDecoderModule:
    module = CausalDecoder(width=16, depth=2, heads=2).build(MODALITIES, JointEncoder(width=8, heads=2), TASKS)
    redraw(module)
    return module.double().eval()


@pytest.fixture
def latents() -> Latents:
    generator = torch.Generator().manual_seed(0)
    at = torch.tensor([[0, 5, 9, 7], [3, 2, 1, 9]])
    return Latents(torch.randn(2, 4, 8, dtype=torch.float64, generator=generator), at, LAYOUT)


def query(ids: torch.Tensor, valid: torch.Tensor | None = None) -> Query:
    return Query(Letters().tokenize(ids), torch.arange(ids.shape[1]).expand(ids.shape), valid)


@pytest.fixture
def queries() -> dict[str, Query]:
    return {"a": query(random_letters(2, 6)), "b": query(random_letters(2, 4, words=4))}


def tokens_of(queries: dict[str, Query]) -> dict[str, Tokens]:
    return {name: asked.tokens for name, asked in queries.items()}


def run(decoder, latents, queries):
    return decoder(latents, tokens_of(queries), queries)


def same(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_every_task_gets_its_numbers_at_the_places_of_its_modality(decoder, latents, queries):
    shapes = {task: tuple(pred.shape) for task, pred in run(decoder, latents, queries).items()}
    assert shapes == {"first": (2, 6, 19), "again": (2, 6, 5), "other": (2, 4, 13)}


@pytest.mark.parametrize("place", range(6))
def test_a_prediction_depends_on_all_ids_before_its_place_and_on_no_other(decoder, latents, queries, place):
    expected, ids = run(decoder, latents, queries)["first"], queries["a"].tokens.values
    later, earlier = ids.clone(), ids.clone()
    later[:, place:] = (later[:, place:] + 1) % 10
    found = run(decoder, latents, {**queries, "a": query(later)})["first"]
    assert torch.equal(found[:, : place + 1], expected[:, : place + 1])
    assert place == 5 or not torch.equal(found[:, place + 1], expected[:, place + 1])
    for before in range(place):
        earlier = ids.clone()
        earlier[:, before] = (earlier[:, before] + 1) % 10
        found = run(decoder, latents, {**queries, "a": query(earlier)})["first"]
        assert (found[:, place] - expected[:, place]).abs().min(dim=-1).values.min() > 1e-9


@pytest.mark.parametrize(("changed", "task", "other"), [("a", "first", "other"), ("b", "other", "first")])
def test_another_modality_s_ids_are_not_seen(decoder, latents, queries, changed, task, other):
    expected = run(decoder, latents, queries)
    ids = (queries[changed].tokens.values + 1) % 4
    found = run(decoder, latents, {**queries, changed: query(ids)})
    assert torch.equal(found[other], expected[other])
    assert not torch.equal(found[task], expected[task])


@pytest.mark.parametrize("valid", [None, torch.tensor([[True, False]])], ids=["full", "padded"])
def test_latents_see_each_other_and_ids_see_latents_themselves_and_what_is_before(valid):
    parts = [torch.zeros(1, n, 4) for n in (2, 3, 2)]
    flags = [valid, None, None]
    full = ["11.....", "11.....", "111....", "1111...", "11111..", "11...1.", "11...11"]
    rows = full if valid is None else [row[0] + (row[1] if i == 1 else ".") + row[2:] for i, row in enumerate(full)]
    assert [["1" if seen else "." for seen in row] for row in _prefix_mask(parts, flags)[0, 0]] == list(map(list, rows))


def test_every_prediction_depends_on_every_latent(decoder, latents, queries):
    expected = run(decoder, latents, queries)["first"]
    for k in range(4):
        values = latents.values.clone()
        values[:, k] += 1
        found = run(decoder, replace(latents, values=values), queries)["first"]
        assert ((found - expected).abs() > 1e-9).all()


def test_the_order_of_latents_does_not_matter(decoder, latents, queries):
    order = [2, 0, 3, 1]
    shuffled = replace(latents, values=latents.values[:, order], at=latents.at[:, order])
    same(run(decoder, shuffled, queries), run(decoder, latents, queries))


def test_global_tokens_are_seen(decoder, latents, queries):
    found = run(decoder, replace(latents, globals=torch.ones(2, 1, 8, dtype=torch.float64)), queries)
    assert found["first"].shape == (2, 6, 19)
    assert not torch.allclose(found["first"], run(decoder, latents, queries)["first"])


@pytest.mark.parametrize("globals_", [None, torch.ones(2, 1, 8, dtype=torch.float64)], ids=["", "globals"])
def test_padded_latents_and_places_change_nothing(decoder, latents, queries, globals_):
    latents = replace(latents, globals=globals_)
    padded = replace(
        latents,
        values=torch.cat([latents.values, 1e3 * torch.ones(2, 2, 8)], dim=1),
        at=torch.cat([latents.at, torch.tensor([[4, 4], [4, 4]])], dim=1),
        valid=(torch.arange(6) < 4).expand(2, 6),
    )
    longer = torch.cat([queries["a"].tokens.values, torch.tensor([[7, 7], [7, 7]])], dim=1)
    more = query(longer, (torch.arange(8) < 6).expand(2, 8))
    found, expected = run(decoder, padded, {**queries, "a": more}), run(decoder, latents, queries)
    same(found["first"][:, :6], expected["first"])
    same(found["other"], expected["other"])


def test_places_that_are_not_asked_are_seen_by_no_other(decoder, latents, queries):
    some = torch.tensor([[True, True, False, True, True, True]] * 2)
    ids, codes = queries["a"].tokens.values, queries["a"].tokens.coords.clone()
    codes[:, 2] = 77.0  # what the place itself holds
    asked = query(ids, some)
    found = run(decoder, latents, {**queries, "a": replace(asked, tokens=replace(asked.tokens, coords=codes))})
    expected = run(decoder, latents, {**queries, "a": asked})
    assert torch.equal(found["first"][:, some[0]], expected["first"][:, some[0]])
    assert not torch.equal(found["first"][:, 2], expected["first"][:, 2])


def test_a_sample_without_any_latent_stays_finite(decoder, latents, queries):
    none = replace(latents, valid=torch.tensor([[False] * 4, [True] * 4]))
    assert all(pred.isfinite().all() for pred in run(decoder, none, queries).values())


def test_permuting_the_batch_permutes_the_predictions(decoder, latents, queries):
    turned = {name: query(asked.tokens.values.flip(0)) for name, asked in queries.items()}
    found = run(decoder, replace(latents, values=latents.values.flip(0)), turned)
    expected = run(decoder, latents, queries)
    same({task: pred.flip(0) for task, pred in found.items()}, expected)


def test_places_are_known_to_the_decoder(decoder, latents):
    alike = torch.full((2, 6), 3)  # the same id everywhere
    queries = {"a": query(alike), "b": query(alike[:, :2])}
    moved = replace(queries["a"], tokens=replace(queries["a"].tokens, coords=queries["a"].tokens.coords + 5))
    assert not torch.allclose(
        run(decoder, latents, queries)["first"], run(decoder, latents, {**queries, "a": moved})["first"]
    )


def test_latents_that_stand_for_several_tokens_are_read_too(decoder, queries):
    coarse = Latents(torch.randn(2, 3, 8, dtype=torch.float64), torch.arange(3).expand(2, -1), (("a", 3),))
    assert run(decoder, coarse, queries)["first"].shape == (2, 6, 19)


@pytest.mark.parametrize("modality", [Toy(), Letters(vector=True)])
def test_what_has_no_ids_is_refused(modality):
    with pytest.raises(OptionError, match="reads ids back, and the tokens of 'toy' are none: use self_attention"):
        CausalDecoder(width=8, heads=2).build({"toy": modality}, JointEncoder(width=8, heads=2), {"raw": ("toy", 4)})


def test_only_modalities_that_are_asked_for_get_tables():
    module = CausalDecoder(width=8, heads=2, depth=1).build(
        {**MODALITIES, "toy": Toy()}, JointEncoder(width=8, heads=2), {"first": ("a", 19)}
    )
    assert list(module.inputs) == list(module.positions) == ["a"]


# ---- span corruption, from data to loss


def mean_loss(model, batch, splits=None):
    term = model(batch, splits)["reconstruction/letters"]
    return term.total / term.count


def spans(**options) -> MaskedModel:
    torch.manual_seed(0)
    model = MaskedModel(apply(SPANS, options))
    redraw(model)
    return model.eval()


def test_the_loss_counts_every_asked_place_once_sentinels_included():
    model = spans()
    split = hide("..##....#...", "#.#.#.......", "###.........")
    step = Step(model, batch_of(random_letters(3)), {"letters": split})
    term = model(step.batch, {"letters": split})["reconstruction/letters"]
    assert term.count == (3 + 3) + (3 + 4) + (3 + 2)
    log, total = step.prediction("letters").log_softmax(dim=-1), 0.0
    for b, places in enumerate((6, 7, 5)):
        for i in range(places):
            total -= log[b, i, step.target("letters")[b, i]].item()
    assert term.total.item() == pytest.approx(total, rel=1e-5)


def test_a_padded_sample_has_the_loss_it_has_alone():
    with float64():
        model = spans(**{"modalities.letters.padded": True}).double()
        short, long = random_letters(1, 7), random_letters(1, 12, seed=1)
        padded = torch.cat([torch.cat([short, torch.full((1, 5), PADDING)], dim=1), long])
        keys = torch.tensor([3, 4])
        both = model(batch_of(padded, keys))["reconstruction/letters"]
        alone = [model(batch_of(x, keys[i : i + 1]))["reconstruction/letters"] for i, x in enumerate((short, long))]
        same(both.total, sum(term.total for term in alone))
        assert both.count == sum(term.count for term in alone)


def test_visible_ids_reach_the_predictions_and_hidden_ones_only_those_behind_them():
    model, ids, split = spans(), random_letters(1), {"letters": hide("..##....#...")}
    step = Step(model, batch_of(ids), split)
    assert step.target("letters")[0, :6].tolist() == [11, ids[0, 2], ids[0, 3], 12, ids[0, 8], 13]
    expected = step.prediction("letters")
    for place, first in ((0, 0), (11, 0), (2, 2), (3, 3), (8, 5)):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % 10
        found = Step(model, batch_of(changed), split).prediction("letters")
        assert torch.equal(found[:, :first], expected[:, :first])
        assert (found[0, first:6] != expected[0, first:6]).all(dim=-1).all()


def test_ids_beside_another_modality_are_written_from_both():
    recipe = replace(
        SPANS,
        modalities={**TOY.modalities, **SPANS.modalities},
        masking={**TOY.masking, **SPANS.masking},
        budget=TOY.budget,
        decoders={**TOY.decoders, **SPANS.decoders},
        tasks={**TOY.tasks, **SPANS.tasks},
    )
    torch.manual_seed(0)
    model = MaskedModel(recipe)
    redraw(model)
    alone, toys, everybody = batch_of(random_letters(2)), torch.randn(2, 8, 4), torch.ones(2, dtype=torch.bool)

    def terms(toys: torch.Tensor) -> dict:
        views = {"main": {"toy": toys, **alone.views["main"]}}
        return model(replace(alone, views=views, present={"toy": everybody, **alone.present}))

    found = terms(toys)
    sum(term.total for term in found.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    other = terms(toys + 1)
    assert other["reconstruction/letters"].count == found["reconstruction/letters"].count
    assert other["reconstruction/letters"].total != found["reconstruction/letters"].total


def test_works_in_bf16():
    model = spans()
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_loss(model, batch_of(random_letters(4)))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(mean_loss(model, batch_of(random_letters(4))).item(), rel=0.02)


def test_every_parameter_gets_a_gradient():
    model = spans()
    mean_loss(model, batch_of(random_letters(4))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_overfits_one_batch_and_greedy_decoding_gives_it_back():
    torch.manual_seed(0)
    model, ids = MaskedModel(apply(SPANS, {"encoder.width": 32, "decoders.letters.width": 32})), random_letters(4)
    split = {"letters": hide("..##....#...", "#.#.#.......", "###.........", ".....#.###..")}
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = mean_loss(model, batch_of(ids), split)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02

    model.eval()
    with torch.no_grad():
        step = Step(model, batch_of(ids), split)
        asked, truth, latents = step.sides["letters"].asked, step.target("letters"), step.latents()
        written = torch.zeros_like(truth)
        for i in range(truth.shape[1]):
            known = Query(replace(asked, values=written), step.query("letters")[0].ids, asked.valid)
            seen = {"letters": step.sides["letters"].tokens}
            logits = model.decoders["letters"](latents, seen, {"letters": known})["letters"]
            written[:, i] = logits[:, i].argmax(dim=-1)
    assert torch.equal(written[asked.valid], truth[asked.valid])


def test_too_few_sentinels_are_refused_before_a_run_starts():
    dry_run(apply(SPANS, {"modalities.letters.sentinels": 5}))
    with pytest.raises(OptionError, match="4 hidden of 12 tokens may lie in 4 spans and need 5 sentinels"):
        dry_run(apply(SPANS, {"modalities.letters.sentinels": 4}))


def test_a_run_trains_and_its_checkpoint_is_the_same_model(tmp_path):
    recipe = apply(SPANS, {"modalities.letters.padded": True, "checkpoint_every": 2, "seed": 1})
    data = write_letters(tmp_path / "data", 8, lengths=(12, 7, 9))
    dry_run(recipe)
    folder = tmp_path / "run"
    folder.mkdir()
    job = Job(recipe, find_samples(data, recipe.modalities), Layout(4, 2), 2, folder, 0)
    tracker = Tracker(folder, 0, 2, main=True, console=Console(quiet=True))
    try:
        model = train(job, Accelerator(cpu=True), tracker)
    finally:
        tracker.stop()
    loaded = checkpoint.load(folder)
    assert loaded.method.masking == {"letters": SpanMasking()}
    assert loaded.method.tasks["letters"].target == Ids()
    assert loaded.method.corruption == {"letters": Sentinels()}
    assert loaded.method.decoders == recipe.decoders
    batch = batch_of(random_letters(3))
    assert torch.equal(mean_loss(loaded.eval(), batch), mean_loss(model.eval(), batch))


COMPILED = """
import torch
from mmim.model import MaskedModel
from tests.ids import SPANS, batch_of, random_letters

torch.manual_seed(0)
model, graphs = MaskedModel(SPANS), []

def count(graph, inputs):
    graphs.append(graph)
    return graph

def losses():
    made = [model(batch_of(random_letters(2, seed=i), torch.tensor([i, i + 9]))) for i in range(3)]
    return [term["reconstruction/letters"].total.item() for term in made]

expected = losses()
model.compile(fullgraph=True, backend=count)
assert losses() == expected
assert len(graphs) == 1
"""


@pytest.mark.slow
def test_compiles_to_one_graph_that_serves_other_samples_and_cuts():
    done = subprocess.run(  # in a process of its own, where the shape checks of the tests are not in the graph's way
        [sys.executable, "-c", COMPILED], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
