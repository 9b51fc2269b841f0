"""The contract of a modality, and of the two parts it brings defaults for: a masking policy and a target.

Nothing in mmim asks which modality it holds; what differs between pictures and point clouds is behind these methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num, UInt8
from torch import Tensor, nn

from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.parts import Part
from mmim.records import Raw, Tokens, map_raw


@dataclass(frozen=True, slots=True)
class Slice:
    """A file that is a piece of another one: a member of an archive, by its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Inline:
    """Data that stand where the path of a file could: the cell of a manifest, as the text of a file of this name."""

    name: str
    text: str

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return len(self.text.encode(errors="surrogateescape"))


@dataclass(frozen=True, slots=True)
class Source:
    """Where the data of one modality of one sample lie: a file, or a row of a file that holds several samples.

    A modality reads `path` and `row`. What is `stored` otherwise is made a file of its own before a modality reads it
    (`mmim.data.stored`), so that none need know.
    """

    path: Path
    row: int | None = None
    any_row: bool = False
    """The sample is any row of the file, if it has several: one drawn at each visit, the first for evaluation."""
    stored: Slice | Inline | None = None
    """What of `path`, or in its place, is the file; None: `path` is it."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.name if self.stored is None else self.stored.name


@dataclass(frozen=True)
class Vocabulary:
    """The ids that the tokens of a modality take: 0 .. size - 1; -1 stands where there is none.

    mask       stands for a hidden token (BERT's [MASK]); None where no id can (classes)
    sentinels  stand for hidden spans (T5's <extra_id_0> ...), in their order
    """

    size: int
    mask: int | None
    sentinels: tuple[int, ...] = ()


class BatchEmbedder(nn.Module, ABC):
    """An embedder with statistics over the batch, as a batch norm has: it is told which tokens count in them.

    Any other embedder is a module of the values alone.
    """

    sees_hidden: bool
    """Whether hidden tokens pass it too, and so reach the visible ones through the statistics."""

    @abstractmethod
    def forward(self, values: Num[Tensor, "b k *piece"], counted: Bool[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """Embeddings of all tokens; padding and absent samples do not count and must leave no trace."""


class MaskingPolicy(Part):
    """Which token goes first: a ranking, lowest stays visible. How many stay is the budget's business.

    Pure: its only randomness is the `draw` it is handed. A policy that wants to be guided names its `hint`
    ("attention", "loss", "motion") and is handed that; it never sees the Step.
    """

    axis: ClassVar[str] = "masking"
    hint: ClassVar[str | None] = None

    @abstractmethod
    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        """A number per token; those with the lowest stay visible, ties in token order."""

    def group(self, tokens: Tokens) -> int | Int64[Tensor, " b"]:
        """How many tokens share a rank, so that they stay or go together: the frames of a tube, the tokens of a cell.

        A budget counts groups. With padded tokens a number per sample: the valid tokens of one group.
        """
        return 1


class Target(Part):
    """What is predicted at a hidden place, and how a prediction is judged."""

    axis: ClassVar[str] = "target"

    @abstractmethod
    def size(self, modality: "Modality") -> int:
        """p, the numbers a decoder must predict per token."""

    @abstractmethod
    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: "Modality") -> Num[Tensor, "b m *p"]:
        """The target at the places `ids`. Gathers by itself, since some targets need a place's neighbours first."""

    @abstractmethod
    def loss(self, pred: Float[Tensor, "b m p"], target: Num[Tensor, "b m *t"]) -> Float[Tensor, "b m"]:
        """The loss of each token, in float32 or better."""

    @abstractmethod
    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: "Modality"
    ) -> Num[Tensor, "b m *piece"] | None:
        """A prediction as pieces in raw units, for a picture; None if it can't be drawn."""

    @property
    def flatters(self) -> bool:
        """Whether `pieces` borrows the truth's mean and deviation, so that a picture must say so."""
        return False


class Modality(Part):
    """One kind of data. Extend it with a frozen dataclass; one file is a complete modality.

    `masking` and `target` are defaults of the class, not fields: a recipe always says its own, and an option that is
    not used would be a trap.
    """

    axis: ClassVar[str] = "modality"
    suffixes: ClassVar[tuple[str, ...]] = ()
    """The file suffixes it reads, lower case with the dot; the first is the one `depict` writes.

    They may be compound (".depth.png"): of those that end a file's name the longest decides who reads it.
    """
    inline: ClassVar[bool] = False
    """Whether a cell of a manifest may hold the data themselves, as a file of the first suffix would."""

    view: ClassVar[tuple[str, ...]] = ()
    """Fields that say what is read for evaluation, and nothing of how it is cut and normalised: a size, a length.

    A model of another view is the same function (`mmim embed --set`); all other fields belong to its weights.
    """
    training_view: ClassVar[tuple[str, ...]] = ()
    """Fields that act on what is read in training alone: crops, mirroring, gain."""
    files: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """Fields that hold the path of a folder which the model needs (a tokenizer), or None; and which files of it matter.

    A checkpoint carries copies of these, and the model that is loaded from it points there.
    """

    masking: ClassVar[MaskingPolicy]
    """The policy for a recipe that is handed this modality without one."""
    target: ClassVar[Target]
    """The target likewise."""

    @property
    @abstractmethod
    def piece(self) -> tuple[int, ...]:
        """The shape of one token's content."""

    @abstractmethod
    def blank(self) -> Raw:
        """Zeros of the shape of one sample, for a sample that lacks this modality."""

    @abstractmethod
    def read(self, source: Source, draw: Draw | None) -> Raw:
        """One sample from one file, as small as possible (uint8, int16), in a loader's worker.

        Crops and starts come from `draw` (one key, the same for all modalities of the sample: what is to move together
        draws under the same name); None asks for the deterministic view of evaluation (the middle).

        Raises:
            ReadError: the file can't be used; the message is the reason, without the path.
        """

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        """Several views of one file, for repeated sampling. Worth replacing where opening a file is dear."""
        return [self.read(source, draw) for draw in draws]

    def grid(self) -> tuple[int, ...] | None:
        """Tokens along each axis of a sample of the declared size, where there is a grid."""
        return self.tokenize(map_raw(lambda tensor: tensor[None], self.blank())).grid

    def check(self) -> None:
        """Raise an OptionError if something that reading needs is missing; asked before a run starts."""

    def rows_in(self, path: Path) -> Sequence[int] | None:
        """The rows of a file that holds several samples; None: the file is one sample.

        Raises:
            ReadError: it can't be told. The file is then one sample, and `read` raises the same.
        """
        return None

    def length_of(self, source: Source) -> int:
        """How long a sample is, roughly and cheaply, where lengths vary: samples of like length share micro-batches."""
        return 0

    def length_of_bytes(self, size: int) -> int:
        """The same for data of so many bytes that are no file of their own yet, without a look at them."""
        return 0

    def prepare(self, sources: Sequence[Source]) -> "Modality":
        """This modality with what must be learnt of the corpus before a run (a tokenizer), the same for the same data.

        Several processes may ask at once. Whoever reads the sources does it through `mmim.data.stored.opened`.

        Raises:
            DataError: nothing can be learnt from these.
        """
        return self

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The ids that its tokens take; None where tokens are no ids."""
        return None

    def collate(self, raws: Sequence[Raw]) -> Raw:
        """A batch of samples (blank where absent): stacked, unless lengths vary and the modality pads here."""
        return map_raw(lambda *tensors: torch.stack(tensors), *raws)

    @abstractmethod
    def tokenize(self, raw: Raw) -> Tokens:
        """A batch of raw data, cut and normalised on the device."""

    @abstractmethod
    def untokenize(self, values: Num[Tensor, "b n *piece"], tokens: Tokens) -> Num[Tensor, "b *data"]:
        """The inverse of the cut: the data, in the units of `values`, which stand where those of `tokens` do."""

    def raw(self, values: Num[Tensor, "b n *piece"]) -> Num[Tensor, "b n *piece"]:
        """Undo the normalisation; here there is none."""
        return values

    def embedder(self, width: int) -> nn.Module:
        """A module that maps contents `[b k *piece]` to embeddings `[b k width]`, or a `BatchEmbedder`.

        Here a linear map of all numbers of a token; where a token is an id, a table of vectors, normal with deviation
        0.02 (BERT, official code).
        """
        if self.vocabulary is None or self.piece:
            return nn.Sequential(nn.Flatten(2), nn.Linear(prod(self.piece), width))
        table = nn.Embedding(self.vocabulary.size, width)
        nn.init.normal_(table.weight, std=0.02)
        return table

    @abstractmethod
    def position(self, width: int) -> nn.Module:
        """A module that maps Tokens to position codes `[1 n width]` or `[b n width]`: a function of (coords, grid)."""

    def render(self, data: Num[Tensor, "b *data"]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """A picture of each sample from untokenized data in raw units, for a person to look at.

        A number keeps its grey wherever it stands: what is hidden is found by drawing it twice, with extremes there.
        Here the first axis goes to the right, all others down; 0 is grey, and numbers around 1 are told apart best.
        """
        return [_heat_map(each.reshape(len(each), -1)) for each in data.detach().float().cpu()]

    @abstractmethod
    def features(self, raw: Raw) -> Float[Tensor, "b p"]:
        """Plain features of raw data without learning (down-sampled pixels, band energies): the floor to beat."""

    def depict(self, scene: Any, path: Path) -> None:
        """Write this modality's file of a scene of the sample world (`mmim.data.world.Scene`)."""
        raise OptionError(
            f"{type(self).__name__} can't depict a scene of the sample world: give it a method `depict(scene, path)`."
        )

    @property
    def suffix(self) -> str:
        """The suffix of the files that `depict` writes."""
        return self.suffixes[0]


def _heat_map(columns: Num[Tensor, "n p"]) -> UInt8[np.ndarray, "H W 3"]:
    """Numbers as grey, eight pixels high and wide each."""
    shares = columns.T / (1 + columns.T.abs())
    grey = (127.5 + 127.5 * shares).round().to(torch.uint8).numpy().repeat(8, axis=0).repeat(8, axis=1)
    return np.repeat(grey[..., None], 3, axis=2)
