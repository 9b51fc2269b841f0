"""Dual masking: the decoder is asked for a part of the places alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import expect
from mmim.masking.budget import Budget, Groups, Presence, Ratio, groups_of
from mmim.masking.running_cell import RunningCellMasking
from mmim.modality import MaskingPolicy
from mmim.records import Split, Tokens


@dataclass(frozen=True, kw_only=True)
class DualMasking(Budget):
    """What the encoder sees is one budget's business; what the decoder is asked for, a policy's of its own.

    The policy ranks all places, and the decoder predicts those with the lowest ranks: also places that the encoder saw,
    which then stand twice in its sequence. Only those count in the loss that were hidden from the encoder.

    Wang et al. 2023 (VideoMAE V2), section 3.2 and official code (fact: it decodes visible places too). One policy and
    one ratio serve all modalities.
    """

    encoder: Budget = field(default_factory=lambda: Ratio(0.9, rounding="hidden_down"))
    """How many tokens the encoder sees, ranked by the policy of their modality (VideoMAE V2: 0.9 hidden, in tubes)."""
    decoder: MaskingPolicy = field(default_factory=RunningCellMasking)
    """Which places the decoder predicts first (VideoMAE V2: running cells)."""
    ratio: float = 0.5
    """Share of all places that the decoder does not predict, in [0, 1) (VideoMAE V2: 0.5)."""

    def __post_init__(self) -> None:
        expect(0 <= self.ratio < 1, self.ratio, "a share in [0, 1)", "DualMasking.ratio")
        hint = self.decoder.hint
        expect(hint is None, self.decoder, f"a policy without a hint, and it wants {hint!r}", "DualMasking.decoder")

    @property
    def total(self) -> int | None:
        return self.encoder.total

    def check(self, modalities: Collection[str]) -> None:
        self.encoder.check(modalities)

    def using(self, kept: Sequence[str], fresh: Sequence[str]) -> Budget:
        return replace(self, encoder=self.encoder.using(kept, fresh))

    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        seen = self.encoder.cut(ranks, tokens, draw, groups, present)
        asked = {
            name: self.decoder.rank(part, draw.named(f"decoder {place}"))
            for place, (name, part) in enumerate(tokens.items())
        }
        alike = {name: groups_of(self.decoder, part) for name, part in tokens.items()}
        decoded = Ratio(self.ratio, rounding="hidden_down").cut(asked, tokens, draw, alike)
        return {name: _asked_for(seen[name], decoded[name], tokens[name].count) for name in seen}


def _asked_for(seen: Split, decoded: Split, n: int) -> Split:
    """The encoder's split, asked for the places that the other one keeps."""
    hidden = ~_flags(seen.ids_keep, seen.keep_valid, n)
    return replace(
        seen, ids_masked=decoded.ids_keep, masked_valid=decoded.keep_valid, counted=hidden.gather(1, decoded.ids_keep)
    )


def _flags(ids: Tensor, valid: Bool[Tensor, "b k"] | None, n: int) -> Bool[Tensor, "b n"]:
    """Which places are among `ids`."""
    among = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    return torch.zeros(len(ids), n, dtype=torch.bool, device=ids.device).scatter(1, ids, among)
