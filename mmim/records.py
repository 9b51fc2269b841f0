"""What passes between the parts. Axes: b batch, n tokens, k visible, m masked, d width, p values per target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64, Num, Shaped
from torch import Tensor

Raw = Tensor | dict[str, Tensor]
"""What a modality reads from one file, or a batch of it: a tensor, or named tensors (samples and their number)."""


def map_raw(function: Callable[..., Tensor], *raws: Raw) -> Raw:
    """Apply a function of tensors leaf by leaf."""
    first = raws[0]
    if isinstance(first, Tensor):
        return function(*raws)
    named = cast("tuple[dict[str, Tensor], ...]", raws)
    return {name: function(*(raw[name] for raw in named)) for name in first}


@dataclass(frozen=True, eq=False)
class Batch:
    """Raw data of b samples, as the loader hands them over.

    views    views[view][modality]: raw data, batch first, of the modalities that somebody in the batch has: what nobody
             has costs nothing. Where a sample lacks one that others have stand zeros (a NaN behind a `where` still
             poisons gradients)
    present  present[modality]: who has it, of all modalities of the recipe. An unreadable file is absent everywhere
    ids      which sample, a hash of its name
    keys     what all draws of this visit depend on: (seed, epoch, sample, repeat) in one number. The epoch belongs to
             the sample, not to the batch, since a stream runs over epoch ends
    step     the optimiser step, a 0-d tensor so that no compiled graph specialises on it
    """

    views: Mapping[str, Mapping[str, Raw]]
    present: Mapping[str, Bool[Tensor, " b"]]
    ids: Int64[Tensor, " b"]
    keys: Int64[Tensor, " b"]
    step: Int64[Tensor, ""]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; accelerate's own helper leaves a dataclass where it is, without a word."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU run beside the computation."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """A function of every tensor."""
        return Batch(
            views={
                view: {name: map_raw(function, raw) for name, raw in raws.items()} for view, raws in self.views.items()
            },
            present={name: function(flags) for name, flags in self.present.items()},
            ids=function(self.ids),
            keys=function(self.keys),
            step=function(self.step),
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """One modality of one batch, cut into pieces but not embedded yet.

    values  `[b n ...]` the content of each piece, normalised: a patch (c, rows, columns), a tubelet (c, frames, rows,
            columns), an id
    coords  `[1 n c]` or `[b n c]` where each piece sits, in natural units: (time, row, column), xyz, index
    valid   `[b n]`, or None: statically full, so that no attention mask is ever made
    grid    tokens along each axis where there is a grid, slowest first
    fixed   `[b n]` tokens that are hidden last of all, since nothing can be learnt from them (separators); None: none
    """

    values: Num[Tensor, "b n *piece"]
    coords: Num[Tensor, "_b1 n c"]
    valid: Bool[Tensor, "b n"] | None = None
    grid: tuple[int, ...] | None = None
    fixed: Bool[Tensor, "b n"] | None = None

    @property
    def count(self) -> int:
        """n, the tokens of one sample."""
        return self.values.shape[1]


@dataclass(frozen=True, eq=False)
class Split:
    """What the encoder sees (`ids_keep`; all else is hidden) and what a decoder is asked for (`ids_masked`).

    Disjoint, and all tokens together, unless the budget says otherwise. A validity of None means statically full.
    `counted` says which of the asked places count in the loss, where it is not all valid ones: a decoder may be asked
    for visible places too (VideoMAE V2). *Missing is not masked*: presence of a whole modality stands in the Batch.
    """

    ids_keep: Int64[Tensor, "b k"]
    ids_masked: Int64[Tensor, "b m"]
    keep_valid: Bool[Tensor, "b k"] | None = None
    masked_valid: Bool[Tensor, "b m"] | None = None
    counted: Bool[Tensor, "b m"] | None = None


@dataclass(frozen=True, eq=False)
class Latents:
    """What the encoder makes of the visible tokens.

    values   `[b k d]`, after the encoder's last norm if it has one
    at       the place of each in the concatenation of all modalities that `layout` describes
    layout   ((modality, n), ...) in order, static; n counts latents, fewer than tokens where the encoder has a stride
    valid    `[b k]`, or None: statically full
    globals  `[b g d]` tokens that belong to no place (MAE's class token), or None
    """

    values: Float[Tensor, "b k d"]
    at: Int64[Tensor, "b k"]
    layout: tuple[tuple[str, int], ...]
    valid: Bool[Tensor, "b k"] | None = None
    globals: Float[Tensor, "b g d"] | None = None

    def slots(self, name: str) -> tuple[int, int]:
        """First and one-past-last place of a modality in the concatenation."""
        start = 0
        for other, n in self.layout:
            if other == name:
                return start, start + n
            start += n
        raise KeyError(name)

    def mean(self) -> Float[Tensor, "b d"]:
        """The mean over the valid latents of each sample; zeros for a sample without any."""
        if self.valid is None:
            return self.values.mean(dim=1)
        weights = self.valid[..., None].to(self.values.dtype)
        return (self.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def places_of(self, name: str) -> Int64[Tensor, "b k"]:
        """The place of each latent among those of a modality; one past the last for a latent that is none of its.

        Invalid latents and those of other modalities are none of its.
        """
        start, end = self.slots(name)
        its = (self.at >= start) & (self.at < end)
        if self.valid is not None:
            its = its & self.valid
        return torch.where(its, self.at - start, end - start)


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A sum and a count, never a mean: ranks and micro-batches hide different numbers of tokens."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]

    def scaled(self, weight: float) -> "LossTerm":
        """The same term with its sum multiplied."""
        return replace(self, total=self.total * weight)


def gather_tokens(x: Shaped[Tensor, "_b1 n *piece"], ids: Int64[Tensor, "b k"]) -> Shaped[Tensor, "b k *piece"]:
    """Rows `ids` of each sample; an x with batch 1 serves all samples."""
    if x.shape[0] == 1 and ids.shape[0] != 1:
        return x[0][ids]
    index = ids.reshape(*ids.shape, *[1] * (x.ndim - 2)).expand(*ids.shape, *x.shape[2:])
    return x.gather(1, index)
