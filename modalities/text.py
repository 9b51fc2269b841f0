"""Text: lines of files as ids of a tokenizer's words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, groupby
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from mmim.data.stored import every_row, opened
from mmim.data.subwords import FILES, LEAST, SPECIAL, VERSION, Subwords, ensure_subwords, read_subwords
from mmim.data.text_draw import page
from mmim.data.text_read import count_lines, field_of, line_bytes, read_line, read_whole
from mmim.data.world.sentence import sentence
from mmim.draw import Draw, stable_hash
from mmim.errors import OptionError, ReadError, expect
from mmim.layers.patches import grid_coords
from mmim.layers.positions import FlatSinusoid, LearnedTable
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target, Vocabulary
from mmim.records import Raw, Tokens
from mmim.targets.ids import Ids

BUCKETS = 2048  # of the plain features
CORPUS = 64 * 2**20  # bytes that a tokenizer is trained on, at most
HEAD = 2**16  # bytes of a file that tell one corpus from another


@dataclass(frozen=True, kw_only=True)
class Text(Modality):
    """Text as ids of words and parts of words.

    Files   .txt, a sample on every non-blank line (or the whole file, `per`), and .jsonl, an object a line with the
            text in one field. A file with one line is one sample and no row, so that a caption beside a picture has its
            name. UTF-8; nothing is normalised before the tokenizer, which has its own way (ours: NFC and lower case)
    Input   ids [b L] int64, with the tokenizer's pad id (or, without one, its mask id) behind the end; length [b],
            tokens before the end. L: that of the longest of the batch, rounded up by an eighth at most, to `length`
            at most
    Tokens  n = L; values [b n], the ids; coords index. Those that the tokenizer puts around a text ([CLS], [SEP]) are
            `fixed`
    Window  of a text that is too long: anywhere in it in training, its beginning for evaluation; [CLS] and [SEP] around
    Paper   Devlin et al. 2019 (BERT), section 3, arXiv:1810.04805
    """

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".jsonl")
    inline: ClassVar[bool] = True
    view: ClassVar[tuple[str, ...]] = ("length", "per", "field")
    files: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"tokenizer": FILES})
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Ids()

    per: Literal["line", "file"] = "line"
    """What a sample is in a .txt file; in .jsonl it is always a line."""
    field: str = "text"
    """Which field of an object in .jsonl holds the text."""
    tokenizer: Path | None = None
    """Folder of a fast tokenizer of Hugging Face's kind; None trains one on the corpus (BERT: 30,522 word pieces)."""
    vocabulary_size: int = 8192
    """Ids of a tokenizer that is trained, at most; a given one has its own number (BERT: 30,522; T5: 32,100)."""
    sentinels: int = 0
    """Ids that stand for spans: the tokenizer's own <extra_id_0> ..., then further ones (T5: 100; BERT: none)."""
    table: int = 0
    """Size of the vocabulary where a model has more rows than there are ids; 0: no more (published BERTs: none)."""
    length: int = 512
    """Tokens of the longest text, [CLS] and [SEP] included (BERT: 512; T5: 512)."""
    positions: Literal["learned", "sincos"] = "learned"
    """Position codes: a table of parameters (BERT), or the sinusoid of Vaswani et al. 2017, which goes on."""

    def __post_init__(self) -> None:
        for name, lowest in (("length", 4), ("sentinels", 0), ("table", 0), ("vocabulary_size", LEAST)):
            expect(getattr(self, name) >= lowest, getattr(self, name), f"at least {lowest}", f"Text.{name}")

    @property
    def piece(self) -> tuple[int, ...]:
        return ()

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the tokenizer; before one is trained, what it will be at most."""
        if self.tokenizer is not None:
            return self._subwords.vocabulary
        size = self.vocabulary_size + self.sentinels
        return Vocabulary(max(size, self.table), list(SPECIAL).index("mask"), tuple(range(self.vocabulary_size, size)))

    @property
    def _subwords(self) -> Subwords:
        if self.tokenizer is None:
            raise OptionError("Text has no tokenizer yet: give it one, or let `prepare` train one on the corpus.")
        return read_subwords(self.tokenizer, self.sentinels, self.table)

    def check(self) -> None:
        if self.tokenizer is not None:
            ends = self._subwords.tokenizer.num_special_tokens_to_add(False)
            expect(self.length > ends, self.length, f"more than the {ends} special tokens of a text", "Text.length")

    def prepare(self, sources: Sequence[Source]) -> "Text":
        """With a tokenizer, trained on these unless there is one: a function of the texts, not of their order.

        Of a large corpus 64 MiB are taken, which texts depends on their places in it. It is remembered under the names,
        sizes and beginnings (64 KiB) of the files.
        """
        if self.tokenizer is not None:
            return self
        places = sorted(sources, key=lambda source: stable_hash(PurePath(source.name).name, source.row))
        key = [VERSION, self.vocabulary_size, self.per, self.field, *_about(places)]
        digest = blake2b("\x1f".join(map(str, key)).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return replace(self, tokenizer=ensure_subwords(digest, lambda: self._texts(places), self.vocabulary_size))

    def _texts(self, places: Sequence[Source]) -> Iterator[str]:
        """The first of these as far as `CORPUS` goes; what can't be read is left out, as it will be in the run."""
        left = CORPUS
        for text in chain.from_iterable(map(self._texts_of, places)):
            left -= len(text.encode())
            if left < 0:
                return
            yield text

    def _texts_of(self, source: Source) -> Iterator[str]:
        """The texts of a source, of which there are several where it is any row of a file."""
        try:
            with opened(source) as file:
                for row in every_row(file, self):
                    yield from self._text_of(row)
        except ReadError:
            return

    def _text_of(self, source: Source) -> list[str]:
        """The text of a sample, if it can be read."""
        try:
            return [self._text(source)]
        except ReadError:
            return []

    def rows_in(self, path: Path) -> Sequence[int] | None:
        if self._whole(path):
            return None
        count = count_lines(path)
        return range(count) if count > 1 else None

    def _whole(self, path: Path) -> bool:
        return self.per == "file" and path.suffix.lower() != ".jsonl"

    def length_of(self, source: Source) -> int:
        if not self._whole(source.path):
            return line_bytes(source.path, source.row or 0)
        try:
            return source.path.stat().st_size
        except OSError:
            return 0

    def length_of_bytes(self, size: int) -> int:
        return size

    def blank(self) -> dict[str, Tensor]:
        return {"ids": torch.zeros(self.length, dtype=torch.int64), "length": torch.tensor(self.length)}

    def read(self, source: Source, draw: Draw | None) -> Raw:
        return self._windows(source, [draw])[0]

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        return self._windows(source, draws)

    def _windows(self, source: Source, draws: Sequence[Draw | None]) -> list[Raw]:
        """Views of one text, which is cut into words once."""
        before, own, behind = self._subwords.encode(self._text(source))
        room = self.length - len(before) - len(behind)
        starts = max(len(own) - room + 1, 1)
        at = [0 if draw is None else int(draw.floats("window", 1)[0] * starts) for draw in draws]
        views = [torch.tensor(before + own[start : start + room] + behind) for start in at]
        return [{"ids": ids, "length": torch.tensor(len(ids))} for ids in views]

    def _text(self, source: Source) -> str:
        """The text of a sample."""
        if self._whole(source.path):
            return read_whole(source.path)
        line = read_line(source.path, source.row)
        return field_of(line, self.field) if source.path.suffix.lower() == ".jsonl" else line

    def collate(self, raws: Sequence[Raw]) -> Raw:
        ids, lengths = zip(*((raw["ids"], raw["length"]) for raw in raws), strict=True)  # type: ignore[index]
        longest = min(_rounded_up(max(map(len, ids))), self.length)
        pad = 0 if self.tokenizer is None else self._subwords.pad
        padded = [nn.functional.pad(each, (0, longest - len(each)), value=pad) for each in ids]
        return {"ids": torch.stack(padded), "length": torch.stack(lengths)}

    def tokenize(self, raw: dict[str, Tensor]) -> Tokens:  # type: ignore[override]
        ids, (b, n) = raw["ids"], raw["ids"].shape
        coords = grid_coords((n,), ids.device)
        fixed = torch.zeros(b, n, dtype=torch.bool, device=ids.device)
        for special in () if self.tokenizer is None else _special(str(self.tokenizer)):
            fixed = fixed | (ids == special)
        return Tokens(ids, coords, coords[..., 0] < raw["length"][:, None], (n,), fixed)

    def untokenize(self, values: Num[Tensor, "b n"], tokens: Tokens) -> Num[Tensor, "b n"]:
        return values

    def position(self, width: int) -> nn.Module:
        return LearnedTable(width, (self.length,), (True,)) if self.positions == "learned" else FlatSinusoid(width)

    def render(self, data: Num[Tensor, "b n"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The texts in lines, a grey box for each id that there is not; what stands behind the end is left out."""
        return [page(self._words(ids)) for ids in data.long().tolist()]

    def _words(self, ids: Sequence[int]) -> list[str | None]:
        """The words of a text, None for each unknown id; sentinels by their number."""
        subwords = self._subwords
        names = {id: subwords.tokenizer.id_to_token(id) for id in subwords.special}
        names |= {id: f"<{number}>" for number, id in enumerate(subwords.vocabulary.sentinels)}
        words: list[str | None] = []
        for known, run in groupby(ids, lambda id: 0 <= id < subwords.vocabulary.size and id not in names):
            if known:
                words += subwords.tokenizer.decode([id for id in run if id != subwords.pad], False).split()
            else:
                words += [names.get(id) for id in run]
        return words

    def features(self, raw: dict[str, Tensor]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """How often each id occurs, log (1 + count), of length 1; ids share 2048 buckets (id modulo 2048): p = 2048."""
        tokens = self.tokenize(raw)
        assert tokens.valid is not None
        assert tokens.fixed is not None
        counts = torch.zeros(len(tokens.values), BUCKETS, dtype=torch.get_default_dtype(), device=tokens.values.device)
        own = (tokens.valid & ~tokens.fixed).to(counts.dtype)
        return nn.functional.normalize(counts.scatter_add(1, tokens.values % BUCKETS, own).log1p(), dim=1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a caption, one line of text."""
        path.write_text(sentence(scene, scene.nuisance("text")) + "\n", encoding="utf-8", newline="\n")


def _rounded_up(length: int) -> int:
    """A length of four significant bits, so that a compiled model meets few: 56 up to 512."""
    step: int = 2 ** max(length.bit_length() - 4, 0)
    return math.ceil(length / step) * step


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _special(folder: str) -> tuple[int, ...]:
    """The ids that a tokenizer puts around every text, in words that a compiled graph may hold."""
    return read_subwords(Path(folder)).special


def _about(places: Sequence[Source]) -> list[str]:
    """What tells a corpus from another: names, sizes and beginnings of its files, and how many texts are in them.

    Of texts that are no files of their own also which ones they are.
    """
    found = sorted(f"every row of {source.name} {source.stored}" for source in places if source.stored is not None)
    for path in sorted({source.path for source in places}, key=lambda path: (path.name, path)):
        try:
            with path.open("rb") as file:
                head = blake2b(file.read(HEAD), digest_size=8).hexdigest()
            found.append(f"{path.name} {path.stat().st_size} {head}")
        except OSError:
            continue
    return [str(len(places)), *sorted(found)]
