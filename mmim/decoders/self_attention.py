"""MAE's decoder: visible tokens and mask tokens in one sequence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmim.decoders.decoder import Decoder, DecoderModule, Query
from mmim.encoders.encoder import Encoder
from mmim.errors import OptionError, expect
from mmim.layers.block import Bias, Block, attention_mask, init_linear
from mmim.modality import Modality
from mmim.records import Latents, Tokens, gather_tokens


@dataclass(frozen=True, kw_only=True)
class SelfAttentionDecoder(Decoder):
    """Attend over visible latents and one mask token for each place to predict, all with positions.

    Global tokens of the encoder (MAE's class token) stand beside them, without a position. A linear head reads the
    predicted places. He et al. 2022, section 3; VideoMAE (official code) likewise: nothing is unshuffled, because
    attention knows no order.
    """

    width: int = 512
    """Channels of a token in the decoder (MAE: 512; VideoMAE-B: 384)."""
    depth: int = 8
    """Blocks (MAE: 8; VideoMAE-B: 4)."""
    heads: int = 16
    """Attention heads (MAE: 16; VideoMAE-B: 6)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (MAE, VideoMAE: 4)."""
    bias: Bias = "qkv"
    """Attention biases: one fused vector (MAE), q and v only (VideoMAE), none."""
    embed_bias: bool = True
    """Whether the projection from the encoder's width has a bias (MAE: yes; VideoMAE: no)."""
    eps: float = 1e-6
    """Of every norm (MAE, VideoMAE: 1e-6)."""
    project: Literal["first", "last"] = "first"
    """Whether latents are projected to the decoder's width before mask tokens and positions come in (MAE, VideoMAE),
    or after, so that both have the encoder's width (OmniMAE)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "decoder.width")
        expect(self.depth >= 0, self.depth, "at least 0", "decoder.depth")
        expect(self.heads >= 1, self.heads, "at least 1", "decoder.heads")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "decoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "SelfAttentionDecoderModule":
        if encoder.stride > 1:
            raise OptionError(
                f"A self_attention decoder needs one latent per token, and {type(encoder).__name__} has a stride of "
                f"{encoder.stride}: use the linear decoder."
            )
        return SelfAttentionDecoderModule(self, modalities, encoder.latent_width, tasks)


class SelfAttentionDecoderModule(DecoderModule):
    """The module of a `SelfAttentionDecoder`."""

    def __init__(
        self,
        config: SelfAttentionDecoder,
        modalities: Mapping[str, Modality],
        latent_width: int,
        tasks: Mapping[str, tuple[str, int]],
    ) -> None:
        super().__init__()
        width = config.width if config.project == "first" else latent_width
        self.project_last = config.project == "last"
        self.embed = nn.Linear(latent_width, config.width, bias=config.embed_bias)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.positions = nn.ModuleDict({name: modality.position(width) for name, modality in modalities.items()})
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, mlp_ratio=config.mlp_ratio, bias=config.bias, eps=config.eps)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.heads = nn.ModuleDict({task: nn.Linear(config.width, size) for task, (_, size) in tasks.items()})
        self.modality_of = {task: modality for task, (modality, _) in tasks.items()}
        for module in (self.embed, *self.heads.values()):
            init_linear(module)

    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        b = latents.at.shape[0]
        seen = self._project(latents.values, last=False)
        codes = {name: self.positions[name](tokens[name]) for name in dict.fromkeys([*dict(latents.layout), *queries])}
        context = torch.cat([codes[name].expand(b, -1, -1) for name, _ in latents.layout], dim=1)
        parts, valids, places, start = [seen + gather_tokens(context, latents.at)], [latents.valid], {}, seen.shape[1]
        for name, query in queries.items():
            parts.append(self.mask_token + gather_tokens(codes[name], query.ids))
            valids.append(query.valid)
            places[name] = slice(start, start := start + query.ids.shape[1])
        if latents.globals is not None:
            parts.append(self._project(latents.globals, last=False))
            valids.append(None)
        x = self._attend(self._project(torch.cat(parts, dim=1), last=True), parts, valids)
        normed = {name: self.norm(x[:, place]) for name, place in places.items()}
        return {task: self.heads[task](normed[name]) for task, name in self.modality_of.items()}

    def _project(self, x: Float[Tensor, "b n c"], *, last: bool) -> Float[Tensor, "b n d"]:
        """The projection, where it is this one's turn."""
        return self.embed(x) if last is self.project_last else x

    def _attend(
        self, x: Float[Tensor, "b n d"], parts: list[Tensor], valids: list[Tensor | None]
    ) -> Float[Tensor, "b n d"]:
        """The blocks, without a mask wherever everything is statically full."""
        mask = None
        if any(valid is not None for valid in valids):
            flags = [
                torch.ones_like(part[..., 0], dtype=torch.bool) if valid is None else valid
                for part, valid in zip(parts, valids, strict=True)
            ]
            mask = attention_mask(torch.cat(flags, dim=1))
        for block in self.blocks:
            x = block(x, mask)
        return x
