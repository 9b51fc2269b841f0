"""One id stands for each hidden span."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from torch.nn.functional import pad

from mmim.corruption.corruption import Corruption, CorruptionModule, Sides
from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.records import Split, Tokens


@dataclass(frozen=True)
class Sentinels(Corruption):
    """Put one sentinel in place of each run of hidden tokens, and predict runs and sentinels as another sequence.

    The encoder gets the visible tokens in their order with a sentinel where a run was, the decoders sentinel 0, the
    first run, sentinel 1, the second run, ..., and one more sentinel for the end. Both sequences are counted from 0, so
    that no gap tells how long a run was. For ids in a sequence alone.

    Spans must not outnumber sentinels: what a cut could need at the worst (every span one token) is refused by its
    shape, before a run starts, so that no span is ever merged with another or left out.

    Paper    Raffel et al. 2020 (T5), section 3.1.4 and figure 2, arXiv:1910.10683
    Differs  in T5's code the last tokens are always hidden, so that an end-of-sequence id stands where we have the last
             sentinel, as figure 2 has it
    """

    keeps_all: ClassVar[bool] = False

    def build(self, width: int, modality: Modality) -> "SentinelsModule":
        kind, vocabulary, grid = type(modality).__name__, modality.vocabulary, modality.grid()
        if vocabulary is None or modality.piece:
            raise OptionError(f"Sentinels stand among ids, and the tokens of {kind} are none: use drop or mask_token.")
        if not vocabulary.sentinels:
            raise OptionError(f"Sentinels are asked for, and the vocabulary of {kind} has none: give it some.")
        if grid is not None and len(grid) > 1:
            raise OptionError(f"Sentinels shorten a sequence, and {kind} has a grid {grid}: use drop or mask_token.")
        return SentinelsModule(vocabulary.sentinels)


class SentinelsModule(CorruptionModule):
    """The module of `Sentinels`; it has no parameters. All shapes follow from those of the split."""

    def __init__(self, sentinels: tuple[int, ...]) -> None:
        super().__init__()
        self.sentinels = sentinels

    def sides(self, tokens: Tokens, split: Split) -> Sides:
        runs = self._most_runs(split)
        visible = _flags(split.ids_keep, split.keep_valid, tokens.count)
        hidden = _flags(split.ids_masked, split.masked_valid, tokens.count)
        starts = _starts(hidden, visible)
        # not a buffer: a model without memory (device meta) is asked for its counts
        table = torch.tensor(self.sentinels, dtype=tokens.values.dtype, device=tokens.values.device)
        own = table[(starts.cumsum(dim=1) - 1).clamp(min=0)]  # b n, of the run that starts here
        seen, filled = _encoder_side(tokens.values, own, visible, starts, split.ids_keep.shape[1] + runs)
        seen_valid = filled if runs or split.keep_valid is not None else None  # statically full
        length = split.ids_masked.shape[1] + runs + 1
        asked, asked_valid = _decoder_side(tokens.values, own, table[starts.sum(dim=1)], hidden, starts, length)
        everything, nothing = _places(seen), split.ids_keep[:, :0]
        return Sides(
            _sequence(seen, seen_valid, tokens),
            Split(everything, nothing, keep_valid=seen_valid),
            _sequence(asked, asked_valid, tokens),
            Split(nothing, _places(asked), masked_valid=asked_valid),
        )

    def _most_runs(self, split: Split) -> int:
        """Of any split of these shapes: between two runs at least one token is visible.

        Raises:
            OptionError: they could outnumber the sentinels, or a decoder is asked for more than what is hidden.
        """
        if split.counted is not None:
            raise OptionError(
                "Sentinels stand for all that is asked, and this budget asks for more than what is hidden: use ratio."
            )
        kept, masked = split.ids_keep.shape[1], split.ids_masked.shape[1]
        runs = min(masked, kept + 1)
        if runs + 1 > len(self.sentinels):
            raise OptionError(
                f"{masked} hidden of {kept + masked} tokens may lie in {runs} spans and need {runs + 1} sentinels, the "
                f"last one among them, and the vocabulary has {len(self.sentinels)}: give it {runs + 1}, or hide less."
            )
        return runs


def _flags(ids: Int64[Tensor, "b k"], valid: Bool[Tensor, "b k"] | None, n: int) -> Bool[Tensor, "b {n}"]:
    """True at the (valid) places."""
    slots = ids if valid is None else torch.where(valid, ids, n)
    return torch.zeros(len(ids), n + 1, dtype=torch.bool, device=ids.device).scatter(1, slots, True)[:, :n]


def _starts(hidden: Bool[Tensor, "b n"], visible: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """Hidden tokens with no other between them and the visible one before. Padding inside a run does not end it."""
    before = visible.cumsum(dim=1)  # a run shares this number
    latest = torch.where(hidden, before, -1).cummax(dim=1).values
    return hidden & (before != pad(latest[:, :-1], (1, 0), value=-1))


def _encoder_side(
    ids: Int[Tensor, "b n"],
    own: Int[Tensor, "b n"],
    visible: Bool[Tensor, "b n"],
    starts: Bool[Tensor, "b n"],
    length: int,
) -> tuple[Int[Tensor, "b {length}"], Bool[Tensor, "b {length}"]]:
    """The visible ids and a sentinel for each run, and which slots are used."""
    used = visible | starts
    return _packed(torch.where(starts, own, ids), used.cumsum(dim=1) - 1, used, length), _filled(used, length)


def _decoder_side(
    ids: Int[Tensor, "b n"],
    own: Int[Tensor, "b n"],
    last: Int[Tensor, " b"],
    hidden: Bool[Tensor, "b n"],
    starts: Bool[Tensor, "b n"],
    length: int,
) -> tuple[Int[Tensor, "b {length}"], Bool[Tensor, "b {length}"]]:
    """Each run behind its sentinel, and the last sentinel; and which slots are used."""
    slots = hidden.cumsum(dim=1) + starts.cumsum(dim=1) - 1
    values = torch.cat([ids, own, last[:, None]], dim=1)
    places = torch.cat([slots, slots - 1, slots[:, -1:] + 1], dim=1)  # of an id, its run's sentinel, the end
    used = torch.cat([hidden, starts, torch.ones_like(hidden[:, :1])], dim=1)
    return _packed(values, places, used, length), _filled(used, length)


def _packed(
    values: Int[Tensor, "b s"], slots: Int64[Tensor, "b s"], used: Bool[Tensor, "b s"], length: int
) -> Int[Tensor, "b {length}"]:
    """The used values in their slots, zeros elsewhere."""
    packed = values.new_zeros(len(values), length + 1)  # what is not used goes into a slot that is cut off
    return packed.scatter(1, torch.where(used, slots, length), values)[:, :length]


def _filled(used: Bool[Tensor, "b s"], length: int) -> Bool[Tensor, "b {length}"]:
    """The first slots of each sample, as many as are used."""
    return torch.arange(length, device=used.device) < used.sum(dim=1, keepdim=True)


def _places(values: Int[Tensor, "b n"]) -> Int64[Tensor, "b n"]:
    """All places of a sequence."""
    return torch.arange(values.shape[1], device=values.device).expand(len(values), -1)


def _sequence(values: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"] | None, like: Tokens) -> Tokens:
    """A sequence counted from 0."""
    coords = torch.arange(values.shape[1], dtype=like.coords.dtype, device=values.device)[None, :, None]
    return Tokens(values, coords, valid, None if like.grid is None else (values.shape[1],))
