from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from mmim.draw import Draw
from mmim.model import MaskedModel
from mmim.options import apply, parse
from mmim.records import Batch
from mmim.training.optimiser import AdamW
from recipes.bert import BERT, DEMO, SIZES
from tests.texts import word_pieces
from tests.videomae import redraw


def split_of(length):
    """What the recipe hides of a text of so many tokens, [CLS] and [SEP] among them."""
    text = BERT.modalities["text"]
    ids = torch.full((1, 512), 9)
    ids[0, 0], ids[0, length - 1] = 2, 3
    tokens = text.tokenize({"ids": ids, "length": torch.tensor([length])})
    ranks = BERT.masking["text"].rank(tokens, Draw(torch.arange(1)))
    return BERT.budget.cut({"text": ranks}, {"text": tokens}, Draw(torch.arange(1)))["text"]


@pytest.mark.parametrize(
    ("length", "hidden"), [(512, 77), (128, 19), (64, 10), (20, 3), (10, 2), (4, 1), (3, 0)]
)  # round(0.15 n): official code, create_masked_lm_predictions
def test_hides_as_many_tokens_as_the_official_code(length, hidden):
    split = split_of(length)
    assert int(split.masked_valid.sum()) == hidden
    assert int(split.keep_valid.sum()) == length - hidden


@pytest.mark.parametrize(("size", "millions"), [("base", 110), ("large", 340)])
def test_has_as_many_parameters_as_transformers(size, millions):
    recipe = apply(BERT, SIZES[size])
    encoder = recipe.encoder
    with torch.device("meta"):
        ours = MaskedModel(recipe)
        config = BertConfig(
            hidden_size=encoder.width,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width,
        )
        theirs = BertForMaskedLM(config)
    count, expected = (sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs))
    assert count == expected - 2 * encoder.width  # the segments' vectors are in the positions
    assert count / 1e6 == pytest.approx(millions, rel=0.02)  # paper, section 3


def test_weights_decay_and_norms_and_biases_do_not():
    with torch.device("meta"):
        model = MaskedModel(apply(BERT, SIZES["tiny"]))
    optimiser = BERT.optimiser
    assert isinstance(optimiser, AdamW)
    free = {name for name, parameter in model.named_parameters() if not optimiser.decays(name, parameter)}
    assert free == {name for name, _ in model.named_parameters() if "norm" in name or name.endswith("bias")}


def test_every_parameter_learns(tmp_path):
    torch.manual_seed(0)
    text = replace(BERT.modalities["text"], tokenizer=word_pieces(tmp_path / "bert"), length=16)
    model = MaskedModel(apply(replace(BERT, modalities={"text": text}), SIZES["tiny"] | {"budget.ratio": 0.4}))
    redraw(model)
    raw = {"ids": torch.randint(5, 40, (4, 16)), "length": torch.tensor([16, 16, 12, 0])}
    key = torch.arange(4)
    batch = Batch({"main": {"text": raw}}, {"text": torch.tensor([True, True, True, False])}, key, key, torch.tensor(0))
    term = model(batch)["reconstruction/text"]
    term.total.backward()
    assert term.count == 2 * round(16 * 0.4) + round(12 * 0.4)
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_the_paper_is_the_default_and_the_demo_is_small():
    recipe = parse(BERT, ["--data", "."], SIZES, DEMO)
    assert (recipe.batch, recipe.optimiser.rate(recipe.batch), recipe.budget.ratio) == (256, 1e-4, 0.15)
    assert recipe.corruption["text"].mask == 0.8
    demo = parse(BERT, [], SIZES, DEMO)
    assert demo.encoder.width < 100
