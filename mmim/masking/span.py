"""Span masking: runs of tokens."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import expect
from mmim.modality import MaskingPolicy
from mmim.records import Tokens

BITS = 24  # of a draw: a span that is less likely than 2 ** -24 is never drawn
LEAD = 64  # tokens before the first at most, so that spans know no beginning


@dataclass(frozen=True)
class SpanMasking(MaskingPolicy):
    """Hide runs of tokens whose lengths are geometric, whole spans one after the other, in random order.

    Between two spans always lies one token that goes only when all spans are gone, so spans never grow together: up to
    a share of mean / (mean + 1) what is hidden has exactly these lengths. Only of the last span a part may stay, and
    fixed tokens and the end break spans.

    Paper    Raffel et al. 2020 (T5), section 3.1.4, arXiv:1910.10683; Joshi et al. 2020 (SpanBERT), section 3.1
    Differs  T5's code draws how many spans there are first and then cuts the hidden and the seen tokens into so many
             parts at random; SpanBERT draws spans of whole words, which may touch
    """

    mean: float = 3.0
    """Mean length of a span in tokens, before it is cut off at `longest` (T5: 3; SpanBERT: 5)."""
    longest: int | None = None
    """Tokens of the longest span; None has no limit (T5: none; SpanBERT: 10, which makes a mean of 3.8)."""

    def __post_init__(self) -> None:
        expect(1 <= self.mean < math.inf, self.mean, "at least 1 and finite", "SpanMasking.mean")
        longest = self.longest
        expect(longest is None or longest >= 1, longest, "at least 1, or None", "SpanMasking.longest")

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        span, between = self._spans(draw, tokens.count)
        turns = draw.uniform("turn", tokens.count + LEAD).gather(1, span)
        return torch.where(between, draw.uniform("between", tokens.count) - 1, turns)

    def _spans(self, draw: Draw, n: int) -> tuple[Int64[Tensor, "b {n}"], Bool[Tensor, "b {n}"]]:
        """The number of the span that each token is in, and whether it is rather the token behind that span."""
        count = n + LEAD  # spans that are enough if each has one token
        table = torch.tensor(self._shares(), dtype=torch.float64, device=draw.keys.device)
        lengths = torch.searchsorted(table, draw.uniform("span", count).double(), right=True) + 1
        ends = lengths.cumsum(dim=1) + torch.arange(count, device=lengths.device)  # where the token behind each lies
        lead = (draw.uniform("lead", 1).double() * LEAD).long()
        places = torch.arange(n, device=lengths.device) + lead
        span = torch.searchsorted(ends, places)
        return span, ends.gather(1, span) == places

    def _shares(self) -> list[float]:
        """The share of spans that are no longer than 1, 2, ... tokens, up to the last but the longest."""
        goes_on = 1 - 1 / self.mean
        natural = math.ceil(-BITS * math.log(2) / math.log(goes_on)) if goes_on else 1
        longest = min(self.longest or natural, natural)
        whole = 1 - goes_on**longest
        return [(1 - goes_on**length) / whole for length in range(1, longest)]
