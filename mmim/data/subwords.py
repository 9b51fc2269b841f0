"""Words and parts of words as numbers: tokenizers in the form of Hugging Face's fast ones.

A folder holds `tokenizer.json`, and beside it `tokenizer_config.json` or `special_tokens_map.json`, which say what the
special tokens are for. Without such a folder a small one is trained on the corpus, in the same form, so that
transformers reads it too.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmim.data.world.build import cache_folder
from mmim.errors import DataError, OptionError, ReadError
from mmim.modality import Vocabulary

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
"""Readers are processes already; with threads beside them the library would warn of every fork."""

VERSION = 1
"""Raise it whenever `train` makes another tokenizer of the same corpus: cached ones are made anew."""
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""Of a trained tokenizer, ids 0 to 4."""
LEAST = len(SPECIAL) + 256
"""Ids of the smallest one: every byte is a token, so that nothing is unknown."""
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What is read of a folder."""
LONGEST = 100
"""Characters of a word that is learnt from, as BERT's word pieces have it: the library's time goes with the square."""
MASKS = ("[MASK]", "<mask>")
"""What stands for a hidden token, where a folder does not say it."""


@dataclass(frozen=True, eq=False)
class Subwords:
    """A tokenizer, and what follows from it.

    vocabulary  its ids, and further ones for what it lacks
    pad         the id in places behind the end
    special     ids that stand around every text (`[CLS]`, `[SEP]`)
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    pad: int
    special: tuple[int, ...]

    def encode(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """The ids before the text, its own, and those behind it.

        Raises:
            ReadError: nothing is left of the text.
        """
        try:
            found = self.tokenizer.encode(text)
        except Exception as error:  # the library raises nothing narrower
            raise ReadError(f"the tokenizer can't cut it: {' '.join(str(error).split())[:80]}") from error
        own = [place for place, special in enumerate(found.special_tokens_mask) if not special]
        if not own:
            raise ReadError("nothing is left of it in the tokenizer's words")
        first, last = own[0], own[-1] + 1
        return found.ids[:first], found.ids[first:last], found.ids[last:]


def read_subwords(folder: Path, sentinels: int = 0, rows: int = 0) -> Subwords:
    """The tokenizer of a folder, once for each process and state of the folder.

    A mask token that it lacks (GPT-2, T5) is the id behind its last, and so are `sentinels` that it lacks: its own
    `<extra_id_0>` ... (T5) come first. rows: the size of the vocabulary, if a model has more than all these.

    Raises:
        OptionError: there is none, it is damaged, or `rows` are too few.
    """
    file = folder / FILES[0]
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise OptionError(
            f"There is no tokenizer.json in {folder}: name the folder of a fast tokenizer, or none to train one."
        ) from error
    return _read(folder.absolute(), changed, sentinels, rows)


@lru_cache(maxsize=16)
def _read(folder: Path, changed: int, sentinels: int, rows: int) -> Subwords:
    try:
        tokenizer = Tokenizer.from_file(str(folder / FILES[0]))
    except Exception as error:  # the library raises nothing narrower
        raise OptionError(f"{folder / FILES[0]} can't be read: {' '.join(str(error).split())[:120]}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known, roles = tokenizer.get_vocab(with_added_tokens=True), _roles(folder)
    if not known:
        raise OptionError(f"{folder / FILES[0]} has no words at all: name another folder.")
    free = max(known.values()) + 1
    mask = next((known[name] for name in (roles.get("mask_token"), *MASKS) if name in known), None)
    if mask is None:
        mask, free = free, free + 1
    own = [known[name] for number in range(sentinels) if (name := f"<extra_id_{number}>") in known]
    further = range(free, free + sentinels - len(own))
    size = free + len(further)
    if rows and rows < size:
        raise OptionError(f"A vocabulary of {rows} is too small for the {size} ids of {folder}: use {size} or more.")
    vocabulary = Vocabulary(rows or size, mask, (*own, *further))
    pad = known.get(roles.get("pad_token", ""), mask)
    return Subwords(tokenizer, vocabulary, pad, tuple(sorted(set(tokenizer.encode("").ids))))


def _roles(folder: Path) -> dict[str, str]:
    """What the special tokens are called, by role: `mask_token`, `pad_token` ..."""
    found: dict[str, str] = {}
    for name in FILES[1:]:
        told = _json(folder / name) if (folder / name).is_file() else {}
        for role, token in told.items():
            content = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(content, str):
                found.setdefault(role, content)
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{file} can't be read: {error}.") from error
    return told if isinstance(told, dict) else {}


def ensure_subwords(key: str, texts: Callable[[], Iterable[str]], size: int) -> Path:
    """The folder of a tokenizer trained on some texts, in the cache under a key; several processes train it once.

    texts: asked for only where the tokenizer is not there yet; key: tells one corpus from another.

    Raises:
        DataError: there are no texts.
    """
    folder = cache_folder() / "tokenizers" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{key}.lock"):
        for left_over in folder.parent.glob(f".{key}.partial-*"):  # of a process that was killed
            shutil.rmtree(left_over)
        if not folder.exists():
            tokenizer = train(texts(), size)
            with TemporaryDirectory(dir=folder.parent, prefix=f".{key}.partial-") as partial:
                write(tokenizer, Path(partial) / "tokenizer")
                (Path(partial) / "tokenizer").replace(folder)
    return folder


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` ids: lower case, NFC, byte pairs that occur twice or more, `[CLS]` text `[SEP]`.

    A function of the texts, not of their order. Byte pairs (Sennrich et al. 2016, over bytes as in GPT-2) in place of
    BERT's WordPiece, since the library's trainer of the latter gives other ids every time; and no text is unknown.

    Raises:
        DataError: there are no texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = _Counted(texts)
    tokenizer.train_from_iterator(seen, trainer)
    if not seen.count:
        raise DataError("There is no text to train a tokenizer on: none of the files can be read.")
    ends = [(SPECIAL[name], list(SPECIAL).index(name)) for name in ("cls", "sep")]
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return tokenizer


class _Counted:
    """Texts without overlong words, and how many there were."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.count += 1
            yield " ".join(word for word in text.split() if len(word) <= LONGEST)


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """A trained tokenizer as a folder that transformers reads."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / FILES[0]))
    roles = {f"{role}_token": token for role, token in SPECIAL.items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    (folder / FILES[1]).write_text(json.dumps(config, indent=1) + "\n")
