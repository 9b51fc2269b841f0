"""A toy modality of words, with what only some modalities need: rows in a file, lengths, a learnt dictionary."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.draw import Draw
from mmim.encoders.joint import JointEncoder
from mmim.errors import DataError, ReadError
from mmim.layers.patches import grid_coords
from mmim.layers.positions import FlatSinusoid
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.modality import Modality, Source, Vocabulary
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.parts import register
from mmim.records import Tokens
from mmim.targets.ids import Ids
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe

SPECIAL = 2  # a mask and a separator


@register("toy_words")
@dataclass(frozen=True, kw_only=True)
class Words(Modality):
    """Lines of words, each word a token, a separator at the end; the dictionary holds the words of the corpus."""

    suffixes: ClassVar[tuple[str, ...]] = (".words",)
    files: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({"dictionary": ("words.json",)})
    piece: ClassVar[tuple[int, ...]] = ()
    target: ClassVar[Ids] = Ids()
    dictionary: Path | None = None
    longest: int = 8

    @property
    def words(self) -> list[str]:
        if self.dictionary is None:
            return []
        return json.loads((self.dictionary / "words.json").read_text())

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(len(self.words) + SPECIAL, 0)

    def rows_in(self, path: Path) -> Sequence[int] | None:
        lines = _lines(path)
        return range(len(lines)) if len(lines) > 1 else None

    def length_of(self, source: Source) -> int:
        return len(_lines(source.path)[source.row or 0].split())

    def prepare(self, sources: Sequence[Source]) -> "Words":
        if self.dictionary is not None:
            return self
        words = sorted({word for source in sources for word in _lines(source.path)[source.row or 0].split()})
        if not words:
            raise DataError("there is not a word in the corpus")
        folder = sources[0].path.parent / ".dictionary"
        folder.mkdir(exist_ok=True)
        (folder / "words.json").write_text(json.dumps(words))
        (folder / "weights.bin").write_bytes(b"nothing that a checkpoint needs")
        return replace(self, dictionary=folder)

    def blank(self) -> dict[str, Tensor]:
        return {"ids": torch.zeros(self.longest, dtype=torch.int64), "length": torch.tensor(self.longest)}

    def read(self, source: Source, draw: Draw | None) -> dict[str, Tensor]:
        words = self.words
        ids = [words.index(word) + SPECIAL for word in _lines(source.path)[source.row or 0].split()] + [1]
        return {"ids": torch.tensor(ids[: self.longest]), "length": torch.tensor(len(ids[: self.longest]))}

    def collate(self, raws):
        longest = max(len(raw["ids"]) for raw in raws)
        ids = torch.stack([F.pad(raw["ids"], (0, longest - len(raw["ids"]))) for raw in raws])
        return {"ids": ids, "length": torch.stack([raw["length"] for raw in raws])}

    def tokenize(self, raw: dict[str, Tensor]) -> Tokens:
        n = raw["ids"].shape[1]
        valid = torch.arange(n) < raw["length"][:, None]
        return Tokens(raw["ids"], grid_coords((n,)), valid, (n,), raw["ids"] == 1)

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return values

    def raw(self, values: Tensor) -> Tensor:
        return values

    def embedder(self, width: int) -> nn.Module:
        return nn.Embedding(self.vocabulary.size, width)

    def position(self, width: int) -> nn.Module:
        return FlatSinusoid(width)

    def render(self, data: Tensor) -> list[np.ndarray]:
        return [np.zeros((2, 2, 3), np.uint8) for _ in data]

    def features(self, raw: dict[str, Tensor]) -> Tensor:
        return F.one_hot(raw["ids"], self.vocabulary.size).float().sum(dim=1)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError("no text") from error
    if not lines:
        raise ReadError("an empty file")
    return lines


WORDS = Recipe(
    name="words",
    modalities={"words": Words()},
    masking={"words": RandomMasking()},
    budget=Ratio(0.5, rounding="nearest"),
    encoder=JointEncoder(width=8, depth=1, heads=2),
    decoders={"words": SelfAttentionDecoder(width=8, depth=1, heads=2)},
    tasks={"words": Task(modality="words", decoder="words", target=Ids())},
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-2, per=0),
    epochs=1.0,
    batch=4,
    precision="fp32",
)
