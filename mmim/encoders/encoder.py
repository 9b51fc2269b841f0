"""The contract of an encoder, and the trunk: what `mmim embed` loads and a teacher copies."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from mmim.corruption.corruption import Corruption, CorruptionModule, Sides
from mmim.corruption.drop import Drop
from mmim.draw import Draw
from mmim.modality import BatchEmbedder, Modality
from mmim.parts import Part
from mmim.records import Latents, Split, Tokens, gather_tokens

Layout = tuple[tuple[str, int], ...]
"""((modality, n), ...): the order in which modalities are concatenated."""


@dataclass(frozen=True, eq=False)
class Visible:
    """The visible tokens of one modality on their way through the encoder.

    values     `[b k d]` embedded content, to which a branch adds the positions as its architecture does: once, before
               every block, or to the attention logits
    positions  `[b k d]` their position codes
    ids        `[b k]` their places among the modality's tokens
    tokens     all tokens of the modality, for their coords and grid
    valid      `[b k]`, or None: all
    """

    values: Float[Tensor, "b k d"]
    positions: Float[Tensor, "b k d"]
    ids: Int64[Tensor, "b k"]
    tokens: Tokens
    valid: Bool[Tensor, "b k"] | None = None


@dataclass(frozen=True)
class Pass:
    """How a joint pass is made.

    own      of one modality alone: with norms of its own, where the encoder has such
    chained  whether each shared block reads the one before it, or all of them what the branch gave, so that only the
             last one acts (what CAV-MAE's code does in its contrastive passes; the same with one shared block)
    room     how many valid tokens a sample can have at most; None: as many as there are places
    """

    own: bool = False
    chained: bool = True
    room: int | None = None


JOINT = Pass()
"""All that is handed over, with the shared norms."""


class EncoderModule(nn.Module, ABC):
    """What an `Encoder` builds. Two verbs, so that a method with several joint passes makes each branch pass once."""

    @abstractmethod
    def branch(self, name: str, visible: Visible) -> Visible:
        """Add the positions, and run the blocks that belong to one modality alone."""

    @abstractmethod
    def joint(
        self,
        visible: Mapping[str, Visible],
        layout: Layout,
        present: Mapping[str, Bool[Tensor, " b"]],
        how: Pass = JOINT,
    ) -> Latents:
        """The shared blocks and the last norm on the visible tokens of some modalities, which `pack` puts together."""


class Encoder(Part):
    """The configuration of an encoder."""

    axis: ClassVar[str] = "encoder"
    whole_maps: ClassVar[bool] = False
    """Whether it needs all tokens of a grid, the hidden ones too, so that none may be dropped."""

    width: int
    """Channels of an embedded token."""

    @property
    def latent_width(self) -> int:
        """Channels of its output."""
        return self.width

    @property
    def stride(self) -> int:
        """Tokens along each axis of the grid that one latent stands for."""
        return 1

    @abstractmethod
    def build(self, modalities: Mapping[str, Modality]) -> EncoderModule:
        """A module with fresh weights.

        Raises:
            OptionError: it can't encode these modalities.
        """


class Trunk(nn.Module):
    """Embedders, what stands in hidden places, positions and encoder.

    corruption: of each modality; one without an entry drops its hidden tokens. shared: modalities that use the embedder
    of another, by its name.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        encoder: Encoder,
        corruption: Mapping[str, Corruption] = MappingProxyType({}),
        shared: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        chosen = {name: corruption.get(name, Drop()) for name in modalities}
        self.keeps_all = {name for name, part in chosen.items() if part.keeps_all}
        self.shared = dict(shared)
        self.embedders = nn.ModuleDict(
            {name: modality.embedder(encoder.width) for name, modality in modalities.items() if name not in shared}
        )
        self.positions = nn.ModuleDict(
            {name: modality.position(encoder.width) for name, modality in modalities.items()}
        )
        self.corruption = nn.ModuleDict(
            {name: part.build(encoder.width, modalities[name]) for name, part in chosen.items()}
        )
        self.encoder = encoder.build(modalities)

    def sides(self, name: str, tokens: Tokens, split: Split) -> Sides:
        """A modality's tokens and split as encoder and decoders have them."""
        return self._corruption(name).sides(tokens, split)

    def branch(self, name: str, tokens: Tokens, split: Split, present: Bool[Tensor, " b"], draw: Draw) -> Visible:
        """Embed what the encoder is to see, add nothing yet, and run the modality's own blocks.

        draw: of the corruption.
        """
        everywhere = name in self.keeps_all
        visible = (
            self._everywhere(name, tokens, split, present, draw)
            if everywhere
            else self._kept(name, tokens, split, present)
        )
        return self.encoder.branch(name, visible)

    def _kept(self, name: str, tokens: Tokens, split: Split, present: Bool[Tensor, " b"]) -> Visible:
        """Gather, then embed only what is visible, unless the embedder asks for more."""
        if self._sees_hidden(name):
            content = gather_tokens(self._embed(name, tokens.values, tokens.valid, present), split.ids_keep)
        else:
            content = self._embed(name, gather_tokens(tokens.values, split.ids_keep), split.keep_valid, present)
        positions = gather_tokens(self.positions[name](tokens), split.ids_keep)
        return Visible(content, positions, split.ids_keep, tokens, split.keep_valid)

    def _everywhere(self, name: str, tokens: Tokens, split: Split, present: Bool[Tensor, " b"], draw: Draw) -> Visible:
        """Embed all tokens and replace the hidden ones, before or after; their content goes nowhere.

        Hidden is what is not kept: decoders may be asked for other places than these.
        """
        kept = torch.ones_like(split.ids_keep, dtype=torch.bool) if split.keep_valid is None else split.keep_valid
        b, n = tokens.values.shape[:2]
        hidden = ~torch.zeros(b, n, dtype=torch.bool, device=kept.device).scatter(1, split.ids_keep, kept)
        hidden = hidden if tokens.valid is None else hidden & tokens.valid
        corruption = self._corruption(name)
        counts = tokens.valid
        if not self._sees_hidden(name):
            counts = ~hidden if counts is None else counts & ~hidden
        content = self._embed(name, corruption.content(tokens, hidden, draw), counts, present)
        ids = torch.arange(n, device=kept.device).expand(b, -1)
        positions = self.positions[name](tokens).expand(b, -1, -1)
        return Visible(corruption.embedded(content, hidden), positions, ids, tokens, tokens.valid)

    def _sees_hidden(self, name: str) -> bool:
        """Whether hidden tokens count in statistics of the embedder."""
        embedder = self.embedder(name)
        return isinstance(embedder, BatchEmbedder) and embedder.sees_hidden

    def embedder(self, name: str) -> nn.Module:
        """The embedder of a modality, its own or that of another."""
        return self.embedders[self.shared.get(name, name)]

    def _embed(
        self,
        name: str,
        values: Num[Tensor, "b k *piece"],
        valid: Bool[Tensor, "b k"] | None,
        present: Bool[Tensor, " b"],
    ) -> Float[Tensor, "b k d"]:
        embedder = self.embedder(name)
        if not isinstance(embedder, BatchEmbedder):
            embedded: Tensor = embedder(values)
            return embedded
        counted = present[:, None].expand(values.shape[:2])
        return embedder(values, counted if valid is None else counted & valid)  # type: ignore[no-any-return]

    def _corruption(self, name: str) -> CorruptionModule:
        return self.corruption[name]  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Packed:
    """The visible tokens of several modalities in one sequence.

    values     `[b k d]`
    at         `[b k]` their places in the concatenation that the layout describes
    valid      `[b k]`, or None: all
    positions  `[b k d]` their position codes, where asked for
    """

    values: Float[Tensor, "b k d"]
    at: Int64[Tensor, "b k"]
    valid: Bool[Tensor, "b k"] | None = None
    positions: Float[Tensor, "b k d"] | None = None


def pack(
    visible: Mapping[str, Visible],
    layout: Layout,
    present: Mapping[str, Bool[Tensor, " b"]],
    room: int | None = None,
    *,
    positions: bool = False,
) -> Packed:
    """Concatenate modalities in the order of the layout.

    With less room than places, the valid tokens move to the front, in their order, and the others beyond it are left
    out: a budget that is shared gives each modality as many places as it may get, and most of them are empty.

    One modality needs no mask for presence: rows do not mix, and the terms leave absent samples out.
    """
    values, codes, at, valids, start = [], [], [], [], 0
    for name, n in layout:
        if name in visible:
            part = visible[name]
            values.append(part.values)
            codes.append(part.positions)
            at.append(part.ids + start)
            valids.append(_presence(part, present[name] if len(visible) > 1 else None))
        start += n
    valid = None
    if any(flags is not None for flags in valids):
        full = [torch.ones_like(ids, dtype=torch.bool) for ids in at]
        valid = torch.cat([f if flags is None else flags for f, flags in zip(full, valids, strict=True)], dim=1)
    joined = torch.cat(codes, dim=1) if positions else None
    packed = Packed(torch.cat(values, dim=1), torch.cat(at, dim=1), valid, joined)
    return packed if room is None or room >= packed.at.shape[1] or valid is None else _front(packed, room)


def _front(packed: Packed, room: int) -> Packed:
    """The valid tokens first, and no more places than there is room for."""
    assert packed.valid is not None
    order = torch.argsort((~packed.valid).to(torch.uint8), dim=1, stable=True)[:, :room]
    values, at, valid = (gather_tokens(part, order) for part in (packed.values, packed.at, packed.valid))
    return Packed(values, at, valid, None if packed.positions is None else gather_tokens(packed.positions, order))


def _presence(part: Visible, present: Bool[Tensor, " b"] | None) -> Bool[Tensor, "b k"] | None:
    if present is None:
        return part.valid
    flags = present[:, None].expand(part.ids.shape)
    return flags if part.valid is None else flags & part.valid
