"""BERT's recipe turned into T5's span corruption by options alone."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmim import checkpoint, run
from mmim.corruption.sentinels import Sentinels
from mmim.data.sources import find_samples
from mmim.decoders.causal import CausalDecoder
from mmim.errors import OptionError
from mmim.masking.budget import Ratio
from mmim.masking.span import SpanMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply, parse
from mmim.plan import dry_run, prepared
from mmim.records import Batch
from mmim.targets.ids import Ids
from recipes.bert import BERT, DEMO, SIZES
from tests.videomae import redraw

SPANS = [
    *("--masking.text", "span", "--corruption.text", "sentinels", "--decoders.text", "causal"),
    *("--modalities.text.sentinels", "32"),
]
TINY = [
    *("--size", "tiny", "--encoder.width", "32", "--encoder.heads", "2", "--encoder.depth", "1"),
    *("--decoders.text.width", "32", "--decoders.text.heads", "2", "--decoders.text.depth", "1"),
    *("--modalities.text.length", "64", "--modalities.text.vocabulary-size", "300"),
]
LINES = [
    "Thank you for inviting me to your party last week .",
    "The little ball drifts to the left while the big crimson cube stands still, says the caption of this picture.",
    "A ring.",
    "Two golden cones rise; nobody knows why they rise, and nobody asks them.",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n")
    return folder


def model_of(texts: Path) -> tuple[MaskedModel, Batch]:
    """The model of the recipe, and its batch of these texts."""
    torch.manual_seed(0)
    recipe = parse(BERT, ["--data", str(texts), *SPANS, *TINY], SIZES, DEMO)
    samples = find_samples(texts, recipe.modalities)
    recipe = prepared(recipe, samples, texts / "none", Console(quiet=True))
    text = recipe.modalities["text"]
    raw = text.collate([text.read(sample.sources["text"], None) for sample in samples])
    keys = torch.arange(len(samples)) + 5
    present = torch.ones(len(samples), dtype=torch.bool)
    return MaskedModel(recipe).eval(), Batch({"main": {"text": raw}}, {"text": present}, keys, keys, torch.tensor(0))


def test_the_options_choose_what_t5_does():
    recipe = parse(BERT, ["--data", ".", *SPANS], SIZES, DEMO)
    assert recipe.masking == {"text": SpanMasking(mean=3.0)}  # T5, section 3.3.4
    assert recipe.budget == Ratio(0.15, rounding="nearest")  # section 3.1.4
    assert recipe.corruption == {"text": Sentinels()}
    assert recipe.decoders == {"text": CausalDecoder(width=768, depth=12, heads=12)}  # T5-Base
    assert recipe.tasks["text"].target == Ids()


@pytest.mark.parametrize(("sentinels", "fits"), [(32, False), (77, False), (78, True), (100, True)])
def test_512_tokens_need_78_sentinels_and_t5_has_100(sentinels, fits):
    recipe = parse(BERT, ["--data", ".", *SPANS, *TINY], SIZES, DEMO)
    recipe = apply(recipe, {"modalities.text.length": 512, "modalities.text.sentinels": sentinels})
    if fits:
        dry_run(recipe)
    else:
        with pytest.raises(OptionError, match=r"77 hidden of 512 tokens may lie in 77 spans and need 78 sentinels"):
            dry_run(recipe)


def test_the_two_sequences_put_together_are_the_text(texts):
    model, batch = model_of(texts)
    step, text = Step(model, batch), model.method.modalities["text"]
    sentinels, side = text.vocabulary.sentinels, step.sides["text"]
    for b, length in enumerate(batch.views["main"]["text"]["length"].tolist()):
        asked = side.asked.values[b][side.asked.valid[b]].tolist()
        runs = {i: [] for i in asked if i in sentinels}
        assert list(runs) == list(sentinels[: len(runs)])
        for i in asked:
            if i in sentinels:
                last = runs[i]
            else:
                last.append(i)
        assert last == []  # behind the last sentinel
        seen = side.tokens.values[b][side.tokens.valid[b]].tolist()
        whole = [i for place in seen for i in runs.get(place, [place])]
        assert whole == batch.views["main"]["text"]["ids"][b, :length].tolist()
        own = length - 2  # without [CLS] and [SEP], which are never hidden
        assert seen[0] == whole[0]
        assert seen[-1] == whole[-1]
        assert len(asked) - len(runs) == min(round(0.15 * length), own)


def test_every_parameter_gets_a_gradient(texts):
    model, batch = model_of(texts)
    redraw(model)
    model(batch)["reconstruction/text"].total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_command_trains_and_draws(texts, tmp_path):
    steps = ["--steps", "2", "--batch", "4", "--precision", "fp32", "--workers", "0", "--threads", "1"]
    argv = ["--data", str(texts), "--output", str(tmp_path / "run"), *SPANS, *TINY, *steps, "--log-every", "1"]
    run.main(BERT, sizes=SIZES, demo=DEMO, argv=argv)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    method = checkpoint.load(tmp_path / "run").method
    assert method.corruption == {"text": Sentinels()}
    assert isinstance(method.decoders["text"], CausalDecoder)
    assert (tmp_path / "run/report/reconstruction-text.png").is_file()


def test_the_demo_can_be_built():
    dry_run(parse(BERT, [*SPANS, "--decoders.text.width", "96", "--decoders.text.heads", "3"], SIZES, DEMO))
