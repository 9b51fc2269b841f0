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


@dataclass(frozen=True, eq=False)
class Visible:
    """The visible tokens of one modality, embedded, with their places; `valid` None: all."""

    values: Float[Tensor, "b k d"]
    ids: Int64[Tensor, "b k"]
    valid: Bool[Tensor, "b k"] | None = None


class EncoderModule(nn.Module, ABC):
    """What an `Encoder` builds. Two verbs, so that a method with several joint passes makes each branch pass once."""

    @abstractmethod
    def branch(
        self, name: str, values: Float[Tensor, "b k d"], valid: Bool[Tensor, "b k"] | None
    ) -> Float[Tensor, "b k d"]:
        """The blocks that belong to one modality alone."""

    @abstractmethod
    def joint(self, values: Float[Tensor, "b k d"], valid: Bool[Tensor, "b k"] | None) -> Float[Tensor, "b k d"]:
        """The shared blocks and the last norm, on the packed visible tokens of all modalities."""


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
        """Gather, then embed only what is visible, add positions, and run the modality's own blocks."""
        content = self.embedders[name](gather_tokens(tokens.values, split.ids_keep))
        content = content + gather_tokens(self.positions[name](tokens), split.ids_keep)
        return Visible(self.encoder.branch(name, content, split.keep_valid), split.ids_keep, split.keep_valid)

    def joint(
        self,
        visible: Mapping[str, Visible],
        layout: tuple[tuple[str, int], ...],
        present: Mapping[str, Bool[Tensor, " b"]],
    ) -> Latents:
        """Pack the modalities in the order of the layout and run the shared blocks.

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
        packed = torch.cat(values, dim=1)
        return Latents(self.encoder.joint(packed, valid), torch.cat(at, dim=1), layout, valid)


def _presence(part: Visible, present: Bool[Tensor, " b"] | None) -> Bool[Tensor, "b k"] | None:
    if present is None:
        return part.valid
    flags = present[:, None].expand(part.ids.shape)
    return flags if part.valid is None else flags & part.valid
