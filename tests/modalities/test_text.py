import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import mmim
from mmim.data.loader import in_order, load
from mmim.data.sources import Sample, find_samples
from mmim.data.stored import every_row
from mmim.data.world import scenes
from mmim.draw import Draw
from mmim.errors import DataError, OptionError, ReadError
from mmim.modality import Slice, Source, Vocabulary
from mmim.model import MaskedModel, Step
from mmim.options import apply
from modalities.text import Text
from recipes.bert import BERT, SIZES
from tests.texts import LINES, gpt2, jsonl, lines, t5, trained, word_pieces


def draw(key):
    return Draw(torch.tensor([key]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return word_pieces(tmp_path_factory.mktemp("tokenizer") / "bert")


@pytest.fixture
def text(folder):
    return Text(tokenizer=folder, length=16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def words(modality, ids):
    return [modality._subwords.tokenizer.id_to_token(id) for id in ids.tolist()]


def batch(modality, texts, path):
    """Some texts as a batch."""
    lines(path, texts)
    return modality.collate([modality.read(Source(path, row), None) for row in range(len(texts))])


# Files and rows


def test_every_line_is_a_sample_and_a_file_of_one_line_has_no_row(text, tmp_path):
    lines(tmp_path / "many.txt")
    lines(tmp_path / "one.txt", ["", "a red ball", " "])
    jsonl(tmp_path / "many.jsonl")
    jsonl(tmp_path / "one.jsonl", LINES[:1])
    found = [sample.id for sample in find_samples(tmp_path, {"text": text})]
    assert found == [f"many.jsonl#{i}" for i in range(6)] + [f"many.txt#{i}" for i in range(6)] + [
        "one.jsonl",
        "one.txt",
    ]
    assert words(text, text.read(Source(tmp_path / "one.txt"), None)["ids"]) == ["[CLS]", "a", "red", "ball", "[SEP]"]


def test_lines_and_objects_hold_the_same_texts(text, tmp_path):
    lines(tmp_path / "a.txt")
    jsonl(tmp_path / "a.jsonl", field="caption")
    for row in range(len(LINES)):
        first = text.read(Source(tmp_path / "a.txt", row), None)
        second = replace(text, field="caption").read(Source(tmp_path / "a.jsonl", row), None)
        assert torch.equal(first["ids"], second["ids"])


def test_a_whole_file_is_a_sample_if_asked_for(text, tmp_path):
    whole = replace(text, per="file", length=64)
    lines(tmp_path / "a.txt", ["a red ball", "", "rises"])
    jsonl(tmp_path / "a.jsonl")
    assert whole.rows_in(tmp_path / "a.txt") is None
    assert len(whole.rows_in(tmp_path / "a.jsonl")) == 6
    found = whole.read(Source(tmp_path / "a.txt"), None)["ids"]
    assert words(whole, found) == ["[CLS]", "a", "red", "ball", "rises", "[SEP]"]


def test_the_length_is_about_that_of_the_text(text, tmp_path):
    lines(tmp_path / "a.txt", ["short", "a longer line", "x"])
    found = [text.length_of(Source(tmp_path / "a.txt", row)) for row in range(3)]
    assert found == [6, 14, 2]
    lines(tmp_path / "one.txt", ["a red ball"])
    assert text.length_of(Source(tmp_path / "one.txt")) == 11
    assert replace(text, per="file").length_of(Source(tmp_path / "a.txt")) == 22
    for gone in (text, replace(text, per="file")):
        assert gone.length_of(Source(tmp_path / "gone.txt")) == 0


def test_a_line_of_which_nothing_is_left_is_left_out(text, tmp_path):
    lines(tmp_path / "a.txt", ["a red ball", "\u200b\u200b", "rises"])
    samples = find_samples(tmp_path, {"text": text})
    (loaded,) = load(samples, {"text": text}, in_order(3, 3), seed=None, workers=0)
    assert loaded.batch.present["text"].tolist() == [True, False, True]
    assert [(bad.id, bad.reason) for bad in loaded.unreadable] == [
        ("a.txt#1", "nothing is left of it in the tokenizer's words")
    ]


# Windows


def test_a_short_text_is_whole_and_a_long_one_begins_for_evaluation(text, tmp_path):
    lines(tmp_path / "a.txt", ["a red ball", " ".join(LINES)])
    short, long = (text.read(Source(tmp_path / "a.txt", row), None) for row in (0, 1))
    assert (short["length"], long["length"]) == (5, 16)
    assert words(text, long["ids"])[:4] == ["[CLS]", "a", "small", "red"]
    assert words(text, long["ids"])[-1] == "[SEP]"


def test_in_training_a_window_lies_anywhere_in_a_long_text(text, tmp_path):
    lines(tmp_path / "a.txt", [" ".join(LINES)])
    whole = replace(text, length=512).read(Source(tmp_path / "a.txt"), None)["ids"][1:-1].tolist()
    starts = set()
    for key in range(200):
        view = text.read(Source(tmp_path / "a.txt"), draw(key))["ids"].tolist()
        assert (view[0], view[-1], len(view)) == (2, 3, 16)
        fits = [i for i in range(len(whole) - 13) if whole[i : i + 14] == view[1:-1]]
        starts.update(fits)
        assert fits
    assert starts == set(range(len(whole) - 13))


def test_many_windows_are_those_read_one_by_one(text, tmp_path):
    source, draws = Source(lines(tmp_path / "a.txt", [" ".join(LINES)])), [draw(key) for key in range(9)]
    for one, other in zip(text.read_many(source, draws), [text.read(source, each) for each in draws], strict=True):
        assert torch.equal(one["ids"], other["ids"])


@pytest.mark.parametrize(("make", "around"), [(gpt2, ([], [])), (t5, ([], ["</s>"]))])
def test_a_window_has_around_it_what_the_tokenizer_puts_there(make, around, tmp_path):
    text = Text(tokenizer=make(tmp_path / "tokenizer"), length=8)
    source = Source(lines(tmp_path / "a.txt", [" ".join(LINES)]))
    for key in (None, draw(1), draw(2)):
        found = words(text, text.read(source, key)["ids"])
        assert len(found) == 8
        assert (found[: len(around[0])], found[8 - len(around[1]) :]) == around


# Batches


@pytest.mark.parametrize(("length", "expected"), [(512, 22), (16, 16), (13, 13), (21, 21)])
def test_a_batch_is_as_long_as_its_longest_text_rounded_up_by_an_eighth_at_most(length, expected, text, tmp_path):
    text = replace(text, length=length)
    raw = batch(text, ["a red ball", "ball " * 19], tmp_path / "a.txt")
    assert raw["ids"].shape == (2, expected)
    assert raw["length"].tolist() == [5, min(21, length)]
    assert (raw["ids"][0, 5:] == 0).all()


def test_padding_is_the_tokenizers_own_and_else_its_mask(tmp_path):
    for make, name in ((word_pieces, "[PAD]"), (t5, "<pad>"), (gpt2, None)):
        text = Text(tokenizer=make(tmp_path / make.__name__))
        raw = batch(text, ["a", "a red ball rises"], tmp_path / "a.txt")
        pad = text.vocabulary.mask if name is None else text._subwords.tokenizer.token_to_id(name)
        assert raw["ids"][0, raw["length"][0] :].unique().tolist() == [pad]


def test_tokens_are_ids_with_their_place_and_what_stands_around_them_is_fixed(text, tmp_path):
    tokens = text.tokenize(batch(text, ["a red ball", "ball " * 9], tmp_path / "a.txt"))
    assert tokens.values.shape == (2, 11)
    assert tokens.grid == (11,)
    assert tokens.coords.flatten().tolist() == list(range(11))
    assert tokens.valid.sum(dim=1).tolist() == [5, 11]
    assert tokens.valid[0].tolist() == [True] * 5 + [False] * 6
    assert tokens.fixed.nonzero().tolist() == [[0, 0], [0, 4], [1, 0], [1, 10]]


def test_around_tokens_are_hidden_last(text, tmp_path):
    raw = batch(text, LINES, tmp_path / "a.txt")
    keys = torch.arange(6)
    model = MaskedModel(apply(replace(BERT, modalities={"text": text}), SIZES["tiny"]))
    for ratio in (0.15, 0.6):
        model.method = replace(model.method, budget=replace(model.method.budget, ratio=ratio))
        loaded = mmim.records.Batch(
            {"main": {"text": raw}}, {"text": torch.ones(6, dtype=torch.bool)}, keys, keys, torch.tensor(0)
        )
        step = Step(model, loaded)
        split, tokens = step.splits["text"], step.tokens["text"]
        hidden = torch.zeros(6, tokens.count, dtype=torch.bool).scatter(1, split.ids_masked, split.masked_valid)
        assert not (hidden & (tokens.fixed | ~tokens.valid)).any()
        assert hidden.sum(dim=1).tolist() == [round(int(n) * ratio) for n in raw["length"]]


def test_an_absent_sample_has_no_valid_token(text, tmp_path):
    lines(tmp_path / "a.txt")
    samples = [Sample("a", {"text": Source(tmp_path / "a.txt", 0)}), Sample("b", {"text": Source(tmp_path / "b.txt")})]
    (loaded,) = load(samples, {"text": text}, in_order(2, 2), seed=None, workers=0)
    tokens = text.tokenize(loaded.batch.views["main"]["text"])
    assert tokens.valid.any(dim=1).tolist() == [True, False]


def test_a_blank_has_the_declared_length():
    text = Text(length=24)  # without a tokenizer yet, as a dry run has it
    tokens = text.tokenize({name: leaf[None] for name, leaf in text.blank().items()})
    assert tokens.grid == text.grid() == (24,)
    assert tokens.valid.all()
    assert not tokens.fixed.any()


# Vocabulary and tokenizer


def test_before_one_is_trained_the_vocabulary_is_what_it_will_be_at_most(cache, tmp_path):
    text = Text(vocabulary_size=300, sentinels=5, table=320)
    assert text.vocabulary == Vocabulary(320, 4, (300, 301, 302, 303, 304))
    assert Text().vocabulary == Vocabulary(8192, 4)
    made = replace(text, table=0).prepare([Source(lines(tmp_path / "a.txt"), row) for row in range(6)])
    own = made._subwords.tokenizer.get_vocab_size()
    assert own <= 300
    assert made.vocabulary == Vocabulary(own + 5, 4, tuple(range(own, own + 5)))


def sources(*paths):
    return [Source(path, row) for path in paths for row in range(len(LINES))]


def test_a_corpus_has_one_tokenizer_whatever_the_order_and_place_of_its_files(cache, tmp_path):
    first, second = lines(tmp_path / "a.txt"), jsonl(tmp_path / "b.jsonl")
    made = Text(vocabulary_size=300).prepare(sources(first, second))
    assert made.tokenizer.parent == cache / "tokenizers"
    assert Text(vocabulary_size=300).prepare(sources(second, first)) == made
    (tmp_path / "moved").mkdir()
    for path in (first, second):
        path.rename(tmp_path / "moved" / path.name)
    assert Text(vocabulary_size=300).prepare(sources(tmp_path / "moved/a.txt", tmp_path / "moved/b.jsonl")) == made


@pytest.mark.parametrize("change", ["size", "text", "field", "fewer"])
def test_another_corpus_or_size_has_another_tokenizer(change, cache, tmp_path):
    path, text = jsonl(tmp_path / "a.jsonl"), Text(vocabulary_size=300)
    first, asked = text.prepare(sources(path)), sources(path)
    if change == "size":
        text = replace(text, vocabulary_size=280)
    elif change == "text":
        path.write_text(path.read_text().replace("ball", "bell"))
    elif change == "field":
        text = replace(text, field="caption")
        path.write_text(path.read_text().replace('"text"', '"caption"'))
    else:
        asked = asked[:3]
    assert text.prepare(asked).tokenizer != first.tokenizer


def test_a_trained_tokenizer_is_not_trained_again(cache, tmp_path, monkeypatch):
    path = lines(tmp_path / "a.txt")
    made = Text(vocabulary_size=300).prepare(sources(path))
    monkeypatch.setattr(Text, "_texts", lambda *arguments: pytest.fail("the texts were asked for"))
    assert Text(vocabulary_size=300).prepare(sources(path)) == made
    assert made.prepare([]) is made


def test_of_a_large_corpus_a_part_is_taken_whatever_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr("modalities.text.CORPUS", 120)
    text, places = Text(), sources(lines(tmp_path / "a.txt"))
    found = list(text._texts(places))
    assert sum(len(line) for line in found) <= 120 < sum(map(len, LINES))
    assert found == list(LINES[: len(found)])


def test_texts_that_can_not_be_read_are_left_out_of_the_training(cache, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a red ball\ncaf\xe9\nrises\n")
    assert list(Text()._texts([Source(path, row) for row in (0, 1, 2, 3)])) == ["a red ball", "rises"]
    with pytest.raises(DataError, match="There is no text to train a tokenizer on"):
        Text().prepare([Source(path, 1), Source(tmp_path / "gone.txt")])


def test_without_a_tokenizer_nothing_is_read(tmp_path):
    with pytest.raises(OptionError, match="Text has no tokenizer yet"):
        Text().read(Source(lines(tmp_path / "a.txt"), 0), None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 3}, "Text.length is 3; it must be at least 4"),
        ({"sentinels": -1}, "Text.sentinels is -1; it must be at least 0"),
        ({"table": -1}, "Text.table is -1"),
        ({"vocabulary_size": 100}, "Text.vocabulary_size is 100; it must be at least 261"),
    ],
)
def test_options_that_can_not_be_are_refused_with_the_reason(fields, message):
    with pytest.raises(OptionError, match=message):
        Text(**fields)


def test_a_tokenizer_that_can_not_be_used_is_refused_before_a_run(tmp_path):
    with pytest.raises(OptionError, match=r"There is no tokenizer\.json in"):
        Text(tokenizer=tmp_path).check()
    folder = word_pieces(tmp_path / "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ends = tokenizer["post_processor"]["single"]
    tokenizer["post_processor"]["single"] = [ends[0]] * 4 + ends[1:]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(OptionError, match=r"Text\.length is 4; it must be more than the 5 special tokens"):
        Text(tokenizer=folder, length=4).check()
    Text(tokenizer=folder, length=6).check()
    Text().check()


def test_it_travels_to_a_worker(text):
    text.check()
    assert pickle.loads(pickle.dumps(text)) == text


# Embeddings, pictures, features


def test_the_embedder_is_a_table_of_small_vectors(text):
    torch.manual_seed(0)
    embedder = text.embedder(64)
    assert embedder.weight.shape == (text.vocabulary.size, 64)
    assert float(embedder.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_positions_are_a_table_or_a_sinusoid_which_goes_on(text, tmp_path):
    short = text.tokenize(batch(text, ["a red ball"], tmp_path / "a.txt"))
    learned, sinusoid = text.position(8), replace(text, positions="sincos").position(8)
    assert learned.table.shape == (1, 16, 8)
    assert torch.equal(learned(short), learned.table[:, :5])
    assert sinusoid(short)[0, 3].tolist() == pytest.approx(
        [np.sin(3), np.cos(3), np.sin(0.3), np.cos(0.3), np.sin(0.03), np.cos(0.03), np.sin(0.003), np.cos(0.003)]
    )
    long = replace(text, length=32).tokenize({"ids": torch.zeros(1, 32).long(), "length": torch.tensor([32])})
    assert sinusoid(long).shape == (1, 32, 8)
    with pytest.raises(OptionError, match=r"learned table of \(16,\) places can't go on to \(32,\)"):
        learned(long)


def test_a_learned_table_has_the_precision_of_its_weights(text):
    tokens = text.tokenize({"ids": torch.zeros(1, 8).long(), "length": torch.tensor([8])})
    assert text.position(8).double()(tokens).dtype == torch.float64
    assert replace(text, positions="sincos").position(8)(tokens).dtype == torch.float32


def test_a_page_shows_the_words_and_a_box_for_what_is_unknown(text, tmp_path):
    raw = batch(text, ["a red balls", "a"], tmp_path / "a.txt")
    ids = text.untokenize(text.raw(raw["ids"]), text.tokenize(raw)).clone()
    assert text._words(ids[0].tolist()) == ["[CLS]", "a", "red", "balls", "[SEP]"]
    whole = text.render(ids)
    ids[:, 2] = 10**9
    assert text._words(ids[0].tolist()) == ["[CLS]", "a", None, "balls", "[SEP]"]
    high, low = text.render(ids), text.render(torch.where(ids == 10**9, -(10**9), ids))
    assert [page.shape for page in high] == [page.shape for page in low] == [(44, 640, 3)] * 2
    assert (high[0] == low[0]).all()
    grey = (high[0] == 128).all(axis=2)
    assert grey.sum() > 500
    assert not (whole[0] == 128).all(axis=2).sum() > 50


def test_features_count_ids_in_buckets(text, tmp_path):
    features = text.features(batch(text, ["ball ball red", "ball ball red rises", "ball"], tmp_path / "a.txt"))
    ball, red = (text._subwords.tokenizer.token_to_id(word) for word in ("ball", "red"))
    assert features.shape == (3, 2048)
    assert_close(features.norm(dim=1), torch.ones(3))
    assert_close(features[0, ball] / features[0, red], torch.tensor(np.log(3) / np.log(2)).float())
    assert (features > 0).sum(dim=1).tolist() == [2, 3, 1]  # neither what stands around nor padding
    large = replace(text, table=4096)
    raw = {"ids": torch.tensor([[2, ball, ball + 2048, 3]]), "length": torch.tensor([4])}
    assert (large.features(raw) > 0).sum() == 1


def test_features_of_an_absent_sample_are_zeros(text):
    raw = {"ids": torch.zeros(1, 8).long(), "length": torch.tensor([0])}
    assert not text.features(raw).any()


def test_a_scene_becomes_a_caption_that_can_be_read_again(tmp_path):
    first, second = scenes(2, seed=0)
    for name, scene in (("a", first), ("b", first), ("c", second)):
        Text().depict(scene, tmp_path / f"{name}{Text().suffix}")
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes() != (tmp_path / "c.txt").read_bytes()
    assert Text().rows_in(tmp_path / "a.txt") is None
    assert (tmp_path / "a.txt").read_bytes().endswith(b"\n")


COMPILED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from mmim.data.loader import in_order, load
from mmim.data.sources import find_samples
from mmim.model import MaskedModel
from mmim.options import apply
from modalities.text import Text
from recipes.bert import BERT, SIZES
modalities = {"text": Text(tokenizer=Path(sys.argv[2]), length=16)}
samples = find_samples(Path(sys.argv[1]), modalities)
batches = [loaded.batch for loaded in load(samples, modalities, in_order(len(samples), 2), seed=None, workers=0)]
model = MaskedModel(apply(replace(BERT, modalities=modalities), SIZES["tiny"] | {"budget.ratio": 0.4}))
eager = [model(batch)["reconstruction/text"].total.item() for batch in batches]
counter = CompileCounterWithBackend("aot_eager")
model.compile(fullgraph=True, backend=counter)
compiled = [model(batch)["reconstruction/text"].total.item() for batch in batches]
lengths = {batch.views["main"]["text"]["ids"].shape[1] for batch in batches}
print(counter.frame_count <= len(lengths) < len(batches), max(abs(a / b - 1) for a, b in zip(eager, compiled)) < 1e-5)
"""


def test_a_compiled_model_has_a_graph_for_each_length_of_a_batch(folder, tmp_path):
    (tmp_path / "data").mkdir()
    lines(tmp_path / "data/a.txt", LINES + LINES)
    argv = [sys.executable, "-c", COMPILED, str(tmp_path / "data"), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["True", "True"], done.stderr[-2000:]


def test_reading_says_what_is_wrong_with_a_line(text, tmp_path):
    jsonl(tmp_path / "a.jsonl", field="caption")
    with pytest.raises(ReadError, match="no field 'text'; there are 'id', 'caption'"):
        text.read(Source(tmp_path / "a.jsonl", 2), None)


def test_a_trained_tokenizer_goes_with_the_model(cache, tmp_path):
    text = Text(vocabulary_size=300, length=32).prepare(sources(lines(tmp_path / "a.txt")))
    model = MaskedModel(apply(replace(BERT, modalities={"text": text}), SIZES["tiny"])).eval()
    mmim.checkpoint.save(tmp_path / "run/checkpoints", model, 1)
    (text.tokenizer / "tokenizer.json").unlink()
    again = mmim.load(tmp_path / "run")
    ids = again.method.modalities["text"].read(Source(tmp_path / "a.txt", 0), None)["ids"]
    assert words(again.method.modalities["text"], ids)[0] == "[CLS]"


def test_our_own_tokenizer_is_read_like_any_other(tmp_path):
    text = Text(tokenizer=trained(tmp_path / "own"), length=32)
    assert text.vocabulary.mask == 4
    raw = batch(text, LINES, tmp_path / "a.txt")
    assert text._words(raw["ids"][0].tolist())[1:-1] == LINES[0].lower().split()


def test_a_tokenizer_learns_every_line_of_captions_beside_pictures_and_in_tars(tmp_path):
    captions = lines(tmp_path / "a.txt", ["a red ball", "rises", "slowly"])
    beside = Source(captions, any_row=True)
    inside = Source(captions, any_row=True, stored=Slice("x/a.txt", 0, captions.stat().st_size))
    expected = ["a red ball", "rises", "slowly"]
    assert list(Text()._texts(every_row(beside, Text()))) == list(Text()._texts([inside])) == expected
