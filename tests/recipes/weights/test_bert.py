"""transformers' BertForMaskedLM with every weight drawn anew, and ours after an import: the same numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, PreTrainedTokenizerFast

import mmim
from mmim.errors import CheckpointError, OptionError
from mmim.model import Step
from mmim.records import Batch
from tests.parity import F32, F64, beyond, shift, tanh_gelu, worst
from tests.recipes.weights.imports import imported, loaded
from tests.texts import LINES, word_pieces
from tests.videomae import float64

SIZES = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 24, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def theirs(folder, kind=BertForMaskedLM, **changes):
    """A model of transformers with every parameter drawn anew, saved beside its tokenizer."""
    word_pieces(folder)
    words = len(PreTrainedTokenizerFast.from_pretrained(folder))
    config = BertConfig(**{**SIZES, "vocab_size": words, "attn_implementation": "eager", **changes})
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm" in name:
                parameter.copy_(0.1 * drawn + (0.5 if name.endswith("weight") else 0))
            else:
                parameter.copy_((0.02 if "embeddings" in name else 0.3) * drawn)
    model.save_pretrained(folder)
    return model


def batch_of(model, folder, dtype):
    """Two lengths and padding, as our modality and as their tokenizer cut them; some tokens hidden."""
    texts = [LINES[0], LINES[3], LINES[4]]
    their = PreTrainedTokenizerFast.from_pretrained(folder)(
        texts, padding="max_length", max_length=15, return_tensors="pt"
    )
    modality = model.method.modalities["text"]
    raws = []
    for text in texts:
        (folder / "one.txt").write_text(text)
        raws.append(modality.read(mmim.modality.Source(folder / "one.txt"), None))
    raw = modality.collate(raws)
    assert torch.equal(raw["ids"], their["input_ids"])
    assert torch.equal(raw["length"], their["attention_mask"].sum(dim=1))
    assert len(set(raw["length"].tolist())) > 1
    key = torch.arange(3)
    batch = Batch({"main": {"text": raw}}, {"text": torch.ones(3, dtype=torch.bool)}, key, key + 7, torch.tensor(0))
    return batch, their


def errors(model, reference, folder, dtype=torch.float64):
    """How far encoder output, logits and loss are from theirs, on what BERT's masking made of the texts."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        model, reference = model.to(dtype).eval(), reference.to(dtype)
        batch, their = batch_of(model, folder, dtype)
        step = Step(model, batch)
        tokens, split = step.tokens["text"], step.splits["text"]
        module = model.trunk.corruption["text"]
        hidden = torch.zeros_like(tokens.valid).scatter(1, split.ids_masked, split.masked_valid)
        draw = mmim.draw.Draw(batch.keys).named("corruption 0")
        corrupted = module.content(tokens, hidden, draw)
        labels = torch.where(hidden, their["input_ids"], -100)
        out = reference(
            input_ids=corrupted,
            attention_mask=their["attention_mask"],
            token_type_ids=torch.zeros_like(corrupted),
            labels=labels,
            output_hidden_states=True,
        )
        term = model(batch)["reconstruction/text"]
        assert term.count == hidden.sum() > 3
        rows = torch.arange(3)[:, None]
        asked = split.masked_valid
        found = {
            "latent": step.latents().values[tokens.valid],
            "pred": step.prediction("text")[asked],
            "loss": term.total / term.count,
        }
        expected = {
            "latent": out.hidden_states[-1][tokens.valid],
            "pred": out.logits[rows, split.ids_masked][asked],
            "loss": out.loss,
        }
        assert torch.allclose(out.loss, cross_entropy(out.logits[hidden], labels[hidden]))
        return worst(found, expected)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"layer_norm_eps": 1e-3}], ids=str)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_transformers(dtype, allowed, changes, tmp_path):
    reference = theirs(tmp_path / "hf", **changes)
    made = imported(tmp_path / "hf", "hf-bert", ratio=0.4)
    model = loaded(made, tmp_path / "out")
    assert beyond(errors(model, reference, tmp_path / "hf", dtype), allowed) == {}


def pre_norm(model):
    for block in model.trunk.encoder.blocks:
        block.post_norm = False


def without_embed_norm(model):
    model.trunk.encoder.embed_norm = torch.nn.Identity()


def untied(model):
    head, embedder = model.decoders["text"].heads["text"], model.trunk.embedders["text"]
    copy = torch.nn.Embedding.from_pretrained(embedder.weight.roll(1, dims=0))
    head.tie("text", copy)


MUTATIONS = {
    "pre-norm": pre_norm,
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.blocks[0]),
    "eps": lambda model: setattr(model.trunk.encoder.embed_norm, "eps", 1e-6),
    "eps of the last norm": lambda model: setattr(model.trunk.encoder.blocks[1].norm2, "eps", 1e-4),
    "eps of the head": lambda model: setattr(model.decoders["text"].transform.norm, "eps", 1e-4),
    "no norm of the embeddings": without_embed_norm,
    "a head of its own": untied,
    "word": lambda model: shift(model.trunk.embedders["text"].weight[7]),
    "position": lambda model: shift(model.trunk.positions["text"].table),
    "head bias": lambda model: shift(model.decoders["text"].heads["text"].bias),
    "query bias": lambda model: shift(model.trunk.encoder.blocks[1].attn.qkv.bias),
    "no attention mask": lambda model: model.trunk.encoder.__setattr__("_mask", lambda visible, packed, valid: None),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return theirs(folder / "hf"), folder


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault(mutation, pair, tmp_path):
    reference, folder = pair
    model = loaded(imported(folder / "hf", "hf-bert", ratio=0.4), tmp_path / "out")
    assert beyond(errors(model, reference, folder / "hf"), F64) == {}
    MUTATIONS[mutation](model)
    assert beyond(errors(model, reference, folder / "hf"), F64)


def test_the_import_carries_the_tokenizer_and_says_what_is_left_out(tmp_path):
    theirs(tmp_path / "hf", BertForPreTraining)
    made = imported(tmp_path / "hf", "hf-bert")
    model = loaded(made, tmp_path / "out")
    text = model.method.modalities["text"]
    assert text.tokenizer == mmim.checkpoint.find(tmp_path / "out") / "text-tokenizer"
    assert not list(text.tokenizer.glob("*.safetensors"))
    assert text.length == 24
    assert set(model.decoders["text"].heads["text"].state_dict()) == {"bias"}
    remarks = " ".join(made.remarks)
    assert "the pooler of the class token is left out" in remarks
    assert "the head that tells whether a sentence follows is left out" in remarks
    assert "the vector of the first segment is added into the positions; of the other 1 nothing is kept" in remarks


def test_an_encoder_alone(tmp_path):
    reference = theirs(tmp_path / "hf", BertModel)
    made = imported(tmp_path / "hf", "hf-bert")
    assert made.model.method.decoders == {}
    with float64(), torch.no_grad():
        model = loaded(made, tmp_path / "out")
        batch, their = batch_of(model, tmp_path / "hf", torch.float64)
        out = reference.double()(**{name: their[name] for name in ("input_ids", "attention_mask")})
        latents, valid = model.latents(batch).values, their["attention_mask"].bool()
    assert (latents - out.last_hidden_state)[valid].abs().max() < 2e-6


def test_a_table_that_is_padded_stays_padded(tmp_path):
    words = len(PreTrainedTokenizerFast.from_pretrained(word_pieces(tmp_path / "words")))
    reference = theirs(tmp_path / "hf", vocab_size=words + 5)
    model = loaded(imported(tmp_path / "hf", "hf-bert", ratio=0.4), tmp_path / "out")
    assert model.method.modalities["text"].vocabulary.size == words + 5
    assert beyond(errors(model, reference, tmp_path / "hf"), F64) == {}


def test_old_names_are_read_too(tmp_path):
    theirs(tmp_path / "hf")
    expected = imported(tmp_path / "hf", "hf-bert").model.state_dict()
    weights = load_file(tmp_path / "hf/model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    old["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    old["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(old, tmp_path / "hf/model.safetensors")
    found = imported(tmp_path / "hf", "hf-bert").model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_head_that_should_be_tied_and_is_not_is_refused(tmp_path):
    theirs(tmp_path / "hf")
    weights = load_file(tmp_path / "hf/model.safetensors")
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"] + 1
    save_file(weights, tmp_path / "hf/model.safetensors")
    with pytest.raises(CheckpointError, match=r"'cls.predictions.decoder.weight' is not equal to .*tie_word"):
        imported(tmp_path / "hf", "hf-bert")


def test_without_a_tokenizer_the_import_says_what_to_give(tmp_path):
    theirs(tmp_path / "hf")
    (tmp_path / "hf/tokenizer.json").unlink()
    with pytest.raises(OptionError, match=r"has no tokenizer.json.*--set tokenizer=FOLDER"):
        imported(tmp_path / "hf", "hf-bert")
    made = imported(tmp_path / "hf", "hf-bert", tokenizer=word_pieces(tmp_path / "words"))
    assert made.model.method.modalities["text"].tokenizer == tmp_path / "words"


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path):
    theirs(tmp_path / "hf")
    more = word_pieces(tmp_path / "more", words=[f"word{i}" for i in range(99)])
    with pytest.raises(OptionError, match=r"The model has \d+ words, and the tokenizer of .* has 109"):
        imported(tmp_path / "hf", "hf-bert", tokenizer=more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "of model_type 'roberta', and this is for 'bert'"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new', and ours is 'gelu'"),
        ({"is_decoder": True}, "is_decoder True, and ours is False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(change, message, tmp_path):
    theirs(tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path / "hf", "hf-bert")
