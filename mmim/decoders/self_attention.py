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
from mmim.layers.block import Bias, Block, Mask, Positions, attention_mask, init_linear, run_blocks, vectors_of
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
    """Whether the projection from the encoder's width has a bias (MAE: yes; VideoMAE: no); without effect on none."""
    eps: float = 1e-6
    """Of every norm (MAE, VideoMAE: 1e-6)."""
    project: Literal["first", "last", "none"] = "first"
    """Whether latents are projected to the decoder's width before mask tokens and positions come in (MAE, VideoMAE),
    after, so that both have the encoder's width (OmniMAE), or not at all: the widths are equal (Point-MAE)."""
    positions: Positions = "once"
    """Position codes added before the first block, or to the stream before every block (Point-MAE)."""
    drop_path: float = 0.0
    """Chance that a sample skips a residual of the last block, growing linearly from 0 (Point-MAE: 0.1)."""
    modality_vectors: bool = False
    """A learned vector for each modality, added to its tokens beside the positions (CAV-MAE, 4M: yes)."""
    shared_head: bool = False
    """One head for all tasks of this decoder, whose tokens have as many values each (OmniMAE: yes)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "decoder.width")
        expect(self.depth >= 0, self.depth, "at least 0", "decoder.depth")
        expect(self.heads >= 1, self.heads, "at least 1", "decoder.heads")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "decoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")
        expect(0 <= self.drop_path < 1, self.drop_path, "a share in [0, 1)", "decoder.drop_path")
        if self.positions == "every_block":
            expect(self.depth >= 1, self.depth, "at least 1 with positions every_block", "decoder.depth")
        if self.project == "last" and self.positions == "every_block":
            raise OptionError(
                "decoder.project last adds positions in the encoder's width, before the blocks: use positions once."
            )

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "SelfAttentionDecoderModule":
        if encoder.stride > 1:
            raise OptionError(
                f"A self_attention decoder needs one latent per token, and {type(encoder).__name__} has a stride of "
                f"{encoder.stride}: use the linear decoder."
            )
        if self.project == "none" and self.width != encoder.latent_width:
            raise OptionError(
                f"A decoder without a projection has the encoder's width, {encoder.latent_width}, and this one "
                f"{self.width}: set one of them to the other, or use project first."
            )
        sizes = {size for _, size in tasks.values()}
        if self.shared_head and len(sizes) > 1:
            raise OptionError(
                f"{', '.join(tasks)} predict {', '.join(map(str, sorted(sizes)))} values a token, and one head can't "
                "serve them: use pieces of one size, or shared_head False."
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
        width = latent_width if config.project == "last" else config.width
        self.project, self.every_block = config.project, config.positions == "every_block"
        projected = config.project != "none"
        self.embed = nn.Linear(latent_width, config.width, bias=config.embed_bias) if projected else nn.Identity()
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.positions = nn.ModuleDict({name: modality.position(width) for name, modality in modalities.items()})
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                bias=config.bias,
                eps=config.eps,
                drop_path=config.drop_path * number / max(config.depth - 1, 1),
            )
            for number in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.head_of = {task: next(iter(tasks)) if config.shared_head else task for task in tasks}
        self.heads = nn.ModuleDict({task: nn.Linear(config.width, tasks[task][1]) for task in self.head_of.values()})
        self.vectors = vectors_of(modalities if config.modality_vectors else (), width)
        self.modality_of = {task: modality for task, (modality, _) in tasks.items()}
        for module in (self.embed, *self.heads.values()):
            init_linear(module)

    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        b = latents.at.shape[0]
        seen = self._project(latents.values, "first")
        codes = {name: self._codes(name, tokens[name]) for name, _ in latents.layout}
        context = torch.cat([codes[name].expand(b, -1, -1) for name, _ in latents.layout], dim=1)
        parts, placed = [seen], [gather_tokens(context, latents.at)]
        valids, places, start = [latents.valid], {}, seen.shape[1]
        for name, query in queries.items():
            same = name in codes and query.tokens is tokens[name]
            placed.append(gather_tokens(codes[name] if same else self._codes(name, query.tokens), query.ids))
            parts.append(self.mask_token.to(seen.dtype).expand_as(placed[-1]))
            valids.append(query.valid)
            places[name] = slice(start, start := start + query.ids.shape[1])
        if latents.globals is not None:
            parts.append(self._project(latents.globals, "first"))
            placed.append(torch.zeros_like(parts[-1]))
            valids.append(None)
        x, positions = torch.cat(parts, dim=1), torch.cat(placed, dim=1)
        if self.every_block:
            x = run_blocks(self.blocks, x, _mask(parts, valids), positions)
        else:
            x = run_blocks(self.blocks, self._project(x + positions, "last"), _mask(parts, valids))
        normed = {name: self.norm(x[:, place]) for name, place in places.items()}
        return {
            task: self.heads[self.head_of[task]](normed[name])
            for task, name in self.modality_of.items()
            if name in normed
        }

    def _codes(self, name: str, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        """Positions, and what says which modality it is."""
        codes: Tensor = self.positions[name](tokens)
        return codes + self.vectors[name].to(codes.dtype) if name in self.vectors else codes

    def _project(self, x: Float[Tensor, "b n c"], turn: str) -> Float[Tensor, "b n d"]:
        """The projection, where it is this one's turn."""
        return self.embed(x) if turn == self.project else x


def _mask(parts: list[Tensor], valids: list[Tensor | None]) -> Mask | None:
    """None wherever everything is statically full."""
    if all(valid is None for valid in valids):
        return None
    flags = [
        torch.ones_like(part[..., 0], dtype=torch.bool) if valid is None else valid
        for part, valid in zip(parts, valids, strict=True)
    ]
    return attention_mask(torch.cat(flags, dim=1))
