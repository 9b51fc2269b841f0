"""Folders of transformers: BERT."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

from mmim.data.subwords import FILES, read_subwords
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import move_affine
from mmim.masking.budget import Ratio
from mmim.model import Method
from modalities.text import Text
from recipes.bert import BERT
from recipes.weights.huggingface import join_blocks, read_config

# The defaults of transformers' configuration: a config.json may leave out what is at its default.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}

# From the names in files to ours; gamma and beta are those of the first checkpoints, converted from TensorFlow.
_SPELLINGS = (
    (r"^bert\.", ""),
    (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
    (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.self\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.output\.LayerNorm\.", ".norm2."),
)
_WORDS, _HEAD = "embeddings.word_embeddings.weight", "cls.predictions"
_LEFT = {
    "pooler.": "the pooler of the class token",
    "cls.seq_relationship.": "the head that tells whether a sentence follows",
    "embeddings.position_ids": "",  # 0, 1, 2 ...
}


class HFBertImporter(Importer):
    """From a folder of transformers' BERT, with or without the head for masked words."""

    about: ClassVar[str] = "transformers' BERT: a folder with config.json, with or without the masked-word head."
    settings: ClassVar[Mapping[str, Setting]] = {
        "tokenizer": Setting(Path, "FOLDER (holds tokenizer.json; default: that of the weights)")
    }

    def spelling(self, name: str) -> str:
        for pattern, new in _SPELLINGS:
            name = re.sub(pattern, new, name)
        return name

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        config = read_config(weights, "bert", DEFAULTS)
        for name in ("is_decoder", "add_cross_attention", "position_embedding_type"):
            if config[name] != DEFAULTS[name]:
                raise CheckpointError(f"config.json has {name} {config[name]!r}, and ours is {DEFAULTS[name]!r}.")
        text = _read_text(ledger, weights, options)
        encoder = _read_encoder(config)
        _move_embeddings(ledger)
        join_blocks(ledger, "trunk.encoder.blocks.", "blocks.", encoder.depth, encoder.bias)
        for prefix, what in _LEFT.items():
            if ledger.leave(prefix) and what:
                ledger.remarks.append(f"{what} is left out")
        decoder = _read_decoder(ledger, config) if f"{_HEAD}.transform.dense.weight" in ledger else None
        budget = cast("Ratio", BERT.budget)
        return Method(
            modalities={"text": text},
            masking=BERT.masking,
            budget=replace(budget, ratio=options.need("ratio", budget.ratio, "the ratio")),
            corruption=BERT.corruption,
            encoder=encoder,
            decoders={} if decoder is None else {"text": decoder},
            tasks={} if decoder is None else BERT.tasks,
            objective={} if decoder is None else BERT.objective,
        )


def _read_text(ledger: Ledger, weights: Weights, options: Options) -> Text:
    """Our modality with the tokenizer beside the weights, or the one that an option names."""
    folder: Path | None = options.get("tokenizer")
    if folder is None:
        folder = weights.path
        if not (folder / FILES[0]).is_file():
            raise OptionError(
                f"{folder} has no {FILES[0]}, which cuts texts into words: give --set tokenizer=FOLDER of one that has "
                "it (AutoTokenizer of transformers saves it)."
            )
    rows, (places, _) = ledger.shape(_WORDS, 2)[0], ledger.shape("embeddings.position_embeddings.weight", 2)
    own = read_subwords(folder).vocabulary.size
    if own > rows:
        raise OptionError(
            f"The model has {rows} words, and the tokenizer of {folder} has {own}, with its mask token: give --set "
            "tokenizer=FOLDER of the one that it was trained with."
        )
    return Text(tokenizer=folder, length=places, table=rows if rows > own else 0)


def _read_encoder(config: Mapping[str, Any]) -> JointEncoder:
    return replace(
        cast("JointEncoder", BERT.encoder),
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        eps=float(config["layer_norm_eps"]),
    )


def _move_embeddings(ledger: Ledger) -> None:
    """Words, positions with the vector of the first segment folded in, and the norm behind them."""
    ledger.move("trunk.embedders.text.weight", _WORDS)
    segments = ledger.take("embeddings.token_type_embeddings.weight")
    first = 0.0 if segments is None else segments[:1]
    ledger.move(
        "trunk.positions.text.table", "embeddings.position_embeddings.weight", lambda rows: (rows + first)[None]
    )
    move_affine(ledger, "trunk.encoder.embed_norm", "embeddings.LayerNorm")
    if segments is not None:
        rest = f"; of the other {len(segments) - 1} nothing is kept" if len(segments) > 1 else ""
        ledger.remarks.append(f"the vector of the first segment is added into the positions{rest}")


def _read_decoder(ledger: Ledger, config: Mapping[str, Any]) -> LinearDecoder:
    """The head, whose weights are the words' own vectors unless the config says otherwise."""
    eps = float(config["layer_norm_eps"])
    move_affine(ledger, "decoders.text.transform.dense", f"{_HEAD}.transform.dense")
    move_affine(ledger, "decoders.text.transform.norm", f"{_HEAD}.transform.LayerNorm")
    tied: bool = config["tie_word_embeddings"]
    weight, biases = f"{_HEAD}.decoder.weight", [f"{_HEAD}.decoder.bias", f"{_HEAD}.bias"]
    there = [name for name in biases if name in ledger] or biases
    ledger.move("decoders.text.heads.text.bias", there[0])
    if not tied:  # fact: then transformers adds the first bias, and never reads the other
        ledger.move("decoders.text.heads.text.weight", weight)
        ledger.leave(f"{_HEAD}.bias")
        return LinearDecoder(transform=True, eps=eps)
    for name, same in ((there[-1], there[0]), (weight, _WORDS)):
        if name in ledger and (tensor := ledger.take(same)) is not None:
            ledger.expect(name, tensor, f"equal to {same}, as tie_word_embeddings says")
    return LinearDecoder(transform=True, tied=True, eps=eps)
