"""The contract of an encoder, and the trunk: what `mmim embed` loads and a teacher copies."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mmim.modality import Modality
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


class EncoderModule(nn.Module, ABC):
    """What an `Encoder` builds. Two verbs, so that a method with several joint passes makes each branch pass once."""

    @abstractmethod
    def branch(self, name: str, visible: Visible) -> Visible:
        """Add the positions, and run the blocks that belong to one modality alone."""

    @abstractmethod
    def joint(
        self, visible: Mapping[str, Visible], layout: Layout, present: Mapping[str, Bool[Tensor, " b"]]
    ) -> Latents:
        """The shared blocks and the last norm on the visible tokens of some modalities, which `pack` puts together."""


class Encoder(Part):
    """The configuration of an encoder."""

    axis: ClassVar[str] = "encoder"

    width: int

    @abstractmethod
    def build(self, modalities: Sequence[str]) -> EncoderModule:
        """A module with fresh weights."""


class Trunk(nn.Module):
    """Embedders, positions and encoder."""

    def __init__(self, modalities: Mapping[str, Modality], encoder: Encoder) -> None:
        super().__init__()
        self.embedders = nn.ModuleDict(
            {name: modality.embedder(encoder.width) for name, modality in modalities.items()}
        )
        self.positions = nn.ModuleDict(
            {name: modality.position(encoder.width) for name, modality in modalities.items()}
        )
        self.encoder = encoder.build(tuple(modalities))

    def branch(self, name: str, tokens: Tokens, split: Split) -> Visible:
        """Gather, then embed only what is visible, and run the modality's own blocks."""
        content = self.embedders[name](gather_tokens(tokens.values, split.ids_keep))
        positions = gather_tokens(self.positions[name](tokens), split.ids_keep)
        return self.encoder.branch(name, Visible(content, positions, split.ids_keep, tokens, split.keep_valid))


def pack(
    visible: Mapping[str, Visible], layout: Layout, present: Mapping[str, Bool[Tensor, " b"]]
) -> tuple[Float[Tensor, "b k d"], Int64[Tensor, "b k"], Bool[Tensor, "b k"] | None]:
    """Concatenate modalities in the order of the layout: values, their places `at` in it, and which are valid.

    One modality needs no mask for presence: rows do not mix, and the terms leave absent samples out.
    """
    values, at, valids, start = [], [], [], 0
    for name, n in layout:
        if name in visible:
            part = visible[name]
            values.append(part.values)
            at.append(part.ids + start)
            valids.append(_presence(part, present[name] if len(visible) > 1 else None))
        start += n
    valid = None
    if any(flags is not None for flags in valids):
        full = [torch.ones_like(ids, dtype=torch.bool) for ids in at]
        valid = torch.cat([f if flags is None else flags for f, flags in zip(full, valids, strict=True)], dim=1)
    return torch.cat(values, dim=1), torch.cat(at, dim=1), valid


def _presence(part: Visible, present: Bool[Tensor, " b"] | None) -> Bool[Tensor, "b k"] | None:
    if present is None:
        return part.valid
    flags = present[:, None].expand(part.ids.shape)
    return flags if part.valid is None else flags & part.valid
