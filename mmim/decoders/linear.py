"""SimMIM's head: a linear map of the encoder's output."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mmim.decoders.decoder import Decoder, DecoderModule, Query
from mmim.encoders.encoder import Encoder
from mmim.errors import OptionError, expect
from mmim.layers.block import init_linear
from mmim.modality import Modality
from mmim.records import Latents, Tokens, gather_tokens


@dataclass(frozen=True, kw_only=True)
class LinearDecoder(Decoder):
    """Read each prediction off the latent of its place. Xie et al. 2022 (SimMIM), section 3.3; BEiT's `lm_head`.

    Where the encoder has a stride, a latent predicts the stride ** axes tokens that it stands for, in raster order, the
    values of each together. (SimMIM: one 1 x 1 convolution and a pixel shuffle, whose channels are (colour, row,
    column) of the whole square; only the order of the rows of the weight differs.)

    With `transform` a layer of the encoder's width stands before it, and with `tied` ids are told by their likeness to
    the embedder's own vectors (Devlin et al. 2019, BERT, official code).

    Differs  Xavier-uniform weights and zero biases, as our other heads (SimMIM: torch's default; BEiT: normal, 0.02)
    """

    transform: bool = False
    """A linear layer, GELU and a norm before the heads (SimMIM, BEiT: no; BERT: yes)."""
    tied: bool = False
    """Whether the head of ids has the embedder's weights, and a bias of its own (BERT: yes)."""
    eps: float = 1e-12
    """Of the transform's norm (BERT: 1e-12); without effect where there is none."""
    needs_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "LinearDecoderModule":
        if self.tied and encoder.stride > 1:
            raise OptionError(
                f"Tied weights need one latent per token, and {type(encoder).__name__} has a stride of "
                f"{encoder.stride}: use tied False."
            )
        return LinearDecoderModule(self, modalities, encoder, tasks)


class LinearDecoderModule(DecoderModule):
    """The module of a `LinearDecoder`."""

    def __init__(
        self,
        config: LinearDecoder,
        modalities: Mapping[str, Modality],
        encoder: Encoder,
        tasks: Mapping[str, tuple[str, int]],
    ) -> None:
        super().__init__()
        self.stride = encoder.stride
        self.transform = Transform(encoder.latent_width, config.eps) if config.transform else nn.Identity()
        self.modality_of = {task: modality for task, (modality, _) in tasks.items()}
        share = {name: self._tokens_per_latent(name, modalities[name]) for name in set(self.modality_of.values())}
        self.heads = nn.ModuleDict(
            {
                task: TiedHead(size) if config.tied else nn.Linear(encoder.latent_width, share[name] * size)
                for task, (name, size) in tasks.items()
            }
        )
        self.apply(init_linear)

    def tie(self, embedders: Mapping[str, nn.Module]) -> None:
        for task, head in self.heads.items():
            if isinstance(head, TiedHead):
                head.tie(self.modality_of[task], embedders[self.modality_of[task]])

    def _tokens_per_latent(self, name: str, modality: Modality) -> int:
        if self.stride == 1:
            return 1
        grid = modality.grid()
        if grid is None:
            raise OptionError(
                f"The encoder's latents stand for {self.stride} tokens along each axis, and the tokens of {name!r} are "
                "on no grid: use an encoder without a stride."
            )
        return int(self.stride ** len(grid))

    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        read = self._finely if self.stride > 1 else self._directly
        return {
            task: read(self.heads[task], latents, name, queries[name])
            for task, name in self.modality_of.items()
            if name in queries
        }

    def _directly(self, head: nn.Module, latents: Latents, name: str, query: Query) -> Float[Tensor, "b m p"]:
        """One latent per token: only what is asked passes the head."""
        out: Tensor = head(self.transform(gather_tokens(latents.values, _rows(latents, name).gather(1, query.ids))))
        return out

    def _finely(self, head: nn.Module, latents: Latents, name: str, query: Query) -> Float[Tensor, "b m p"]:
        """A latent for several tokens: all latents pass the head, their predictions are laid out token by token."""
        grid = query.tokens.grid
        if grid is None:
            raise OptionError(f"The tokens of {name!r} are on no grid, and the encoder's latents are.")
        out = head(self.transform(gather_tokens(latents.values, _rows(latents, name))))
        axes = range(len(grid))
        coarse, fine = " ".join(f"g{i}" for i in axes), " ".join(f"s{i}" for i in axes)
        places = " ".join(f"g{i} s{i}" for i in axes)
        sizes = {f"g{i}": extent // self.stride for i, extent in enumerate(grid)} | {f"s{i}": self.stride for i in axes}
        return gather_tokens(rearrange(out, f"b ({coarse}) ({fine} p) -> b ({places}) p", **sizes), query.ids)


class Transform(nn.Module):
    """BERT's layer before the head: linear, exact GELU, norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        out: Tensor = self.norm(nn.functional.gelu(self.dense(x)))
        return out


class TiedHead(nn.Module):
    """Scores of ids: the product with the embedder's vectors, which stay the embedder's, plus a bias."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))
        self._shared: list[nn.Embedding] = []  # a list, so that its weight is not registered here as well

    def tie(self, name: str, embedder: nn.Module) -> None:
        """Share the weights of a modality's embedder."""
        if not isinstance(embedder, nn.Embedding) or embedder.num_embeddings != len(self.bias):
            raise OptionError(
                f"A tied head needs a vector of the embedder for each of its {len(self.bias)} values, and {name!r} has "
                f"{type(embedder).__name__}: use tied False."
            )
        self._shared = [embedder]

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b size"]:
        (embedder,) = self._shared
        return nn.functional.linear(x, embedder.weight, self.bias)


def _rows(latents: Latents, name: str) -> Int64[Tensor, "b n"]:
    """For every place of a modality, which of the latents stands there."""
    start, end = latents.slots(name)
    b, k = latents.at.shape
    if k < end - start:
        raise OptionError(
            f"A linear decoder reads all {end - start} places of {name!r}, and the encoder gives {k} latents: use the "
            "corruption mask_token, or the self_attention decoder."
        )
    numbers = torch.arange(k, device=latents.at.device).expand(b, -1)
    rows = numbers.new_zeros(b, end - start + 1).scatter(1, latents.places_of(name), numbers)
    return rows[:, :-1]
