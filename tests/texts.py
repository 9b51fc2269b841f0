"""Texts, tokenizers and files of them for tests; nothing is downloaded."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mmim.data import subwords

LINES = (
    "A small red ball rises in the middle.",
    "The large blue box stands still, at the top left.",
    "There is a green ring here: it falls.",
    "So the tiny crimson globe climbs in the middle of the picture.",
    "Nothing else is seen.",
    "Here a yellow cone drifts to the left.",
)
WORDS = sorted({word.strip(".,:").lower() for line in LINES for word in line.split()})
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def lines(path: Path, texts=LINES, end: str = "\n") -> Path:
    """A file with a text on each line."""
    path.write_bytes("".join(text + end for text in texts).encode())
    return path


def jsonl(path: Path, texts=LINES, field: str = "text") -> Path:
    """A file with an object on each line."""
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)))
    return path


def trained(folder: Path, texts=LINES, size: int = 300) -> Path:
    """A tokenizer of our own making."""
    subwords.write(subwords.train(texts, size), folder)
    return folder


def word_pieces(folder: Path, words=WORDS, **config) -> Path:
    """A tokenizer as published BERTs have it: word pieces, lower case, [CLS] text [SEP]."""
    vocabulary = {word: id for id, word in enumerate([*BERT, ".", ",", ":", *words, "##s", "##ed"])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(list(BERT))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {"mask_token": "[MASK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return save(made, folder, {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **config})


def gpt2(folder: Path, texts=LINES) -> Path:
    """A tokenizer as GPT-2's: byte pairs, no special tokens around a text, none for masks or padding."""
    made = subwords.train(texts, 300)
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    plain = json.loads(made.to_str())
    plain["added_tokens"] = []
    plain["model"]["vocab"] = {f"<{word}>" if word in BERT else word: n for word, n in plain["model"]["vocab"].items()}
    return save(Tokenizer.from_str(json.dumps(plain)), folder, {"eos_token": "</s>"})


def t5(folder: Path, sentinels: int = 3) -> Path:
    """A tokenizer as T5's: pieces of a unigram model, </s> behind a text, sentinels at the end of the ids."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -5.0), *[(f"▁{word}", -3.0) for word in WORDS]]
    made = Tokenizer(models.Unigram([*pieces, *[(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz.,:"]], 2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>", *[f"<extra_id_{i}>" for i in reversed(range(sentinels))]])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    roles = {"eos_token": "</s>", "pad_token": "<pad>"}
    return save(made, folder, {role: {"__type": "AddedToken", "content": token} for role, token in roles.items()})


def save(tokenizer: Tokenizer, folder: Path, config: dict) -> Path:
    """A folder as transformers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
