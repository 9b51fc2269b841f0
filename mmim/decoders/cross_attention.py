"""MultiMAE's decoder: all places of a modality ask the encoder's output."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmim.decoders.decoder import Decoder, DecoderModule, Query
from mmim.encoders.encoder import Encoder
from mmim.errors import OptionError, expect
from mmim.layers.block import Block, CrossAttention, Mlp, attention_mask, init_linear, run_blocks, vectors_of
from mmim.modality import Modality
from mmim.records import Latents, Tokens, gather_tokens


@dataclass(frozen=True, kw_only=True)
class CrossAttentionDecoder(Decoder):
    """Every place of the predicted modality looks at all visible latents once, then at the other places.

    Bachmann et al. 2022 (MultiMAE), section 3.3 and figure 2, arXiv:2204.01678. Queries are the projected latents of
    the modality where it is visible and a mask token where not; the context is the projected latents of all modalities
    and the encoder's global tokens. Latents and queries carry positions and a vector that says which modality they are
    of. As in its code, what the cross-attention gives replaces the queries, without a residual, and no norm stands
    before the head. One decoder predicts one modality, for as many tasks as there are.
    """

    width: int = 256
    """Channels of a token in the decoder (MultiMAE: 256)."""
    depth: int = 2
    """Self-attention blocks behind the cross-attention (MultiMAE: 2)."""
    heads: int = 8
    """Attention heads (MultiMAE: 8)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over the width (MultiMAE: 4)."""
    eps: float = 1e-6
    """Of every norm (MultiMAE: 1e-6)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "decoder.width")
        expect(self.depth >= 0, self.depth, "at least 0", "decoder.depth")
        expect(self.heads >= 1, self.heads, "at least 1", "decoder.heads")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "decoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "CrossAttentionDecoderModule":
        asked = {name for name, _ in tasks.values()}
        if len(asked) > 1:
            raise OptionError(
                f"A cross_attention decoder predicts one modality, and its tasks ask for {', '.join(sorted(asked))}: "
                "give each a decoder of its own, or use self_attention."
            )
        if encoder.stride > 1:
            raise OptionError(
                f"A cross_attention decoder needs one latent per token, and {type(encoder).__name__} has a stride of "
                f"{encoder.stride}: use the linear decoder."
            )
        return CrossAttentionDecoderModule(self, modalities, encoder.latent_width, tasks)


class CrossAttentionDecoderModule(DecoderModule):
    """The module of a `CrossAttentionDecoder`."""

    def __init__(
        self,
        config: CrossAttentionDecoder,
        modalities: Mapping[str, Modality],
        latent_width: int,
        tasks: Mapping[str, tuple[str, int]],
    ) -> None:
        super().__init__()
        width = config.width

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(width, eps=config.eps)

        (self.name,) = {name for name, _ in tasks.values()}
        self.embed = nn.Linear(latent_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.vectors = vectors_of(modalities, width)
        self.positions = nn.ModuleDict({name: modality.position(width) for name, modality in modalities.items()})
        self.query_norm, self.context_norm, self.out_norm = norm(), norm(), norm()
        self.cross = CrossAttention(width, config.heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio + 1e-6))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, mlp_ratio=config.mlp_ratio, eps=config.eps) for _ in range(config.depth)
        )
        self.heads = nn.ModuleDict({task: nn.Linear(width, size) for task, (_, size) in tasks.items()})
        for part in (self.embed, self.cross, self.mlp, self.heads):
            part.apply(init_linear)
        for block in self.blocks:
            for matrix in block.attn.qkv.weight.chunk(3):  # type: ignore[operator, union-attr]
                nn.init.xavier_uniform_(matrix)
        for matrix in self.cross.kv.weight.chunk(2):
            nn.init.xavier_uniform_(matrix)

    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        query = queries[self.name]
        projected = self.embed(latents.values)
        context, valid = self._context(latents, projected, tokens)
        asking = self._asking(latents, projected, query)
        x = self.cross(self.query_norm(asking), self.context_norm(context), valid)
        x = x + self.mlp(self.out_norm(x))
        padding = None if query.tokens.valid is None else attention_mask(query.tokens.valid)
        x = gather_tokens(run_blocks(self.blocks, x, padding), query.ids)
        return {task: head(x) for task, head in self.heads.items()}

    def _context(
        self, latents: Latents, projected: Float[Tensor, "b k d"], tokens: Mapping[str, Tokens]
    ) -> tuple[Float[Tensor, "b c d"], Bool[Tensor, "b c"] | None]:
        """What may be looked at: latents with their positions and vectors, and global tokens as they are."""
        b = len(projected)
        codes = [(self._codes(name, tokens[name])).expand(b, -1, -1) for name, _ in latents.layout]
        context, valid = projected + gather_tokens(torch.cat(codes, dim=1), latents.at), latents.valid
        if latents.globals is not None:
            context = torch.cat([context, self.embed(latents.globals)], dim=1)
            valid = None if valid is None else nn.functional.pad(valid, (0, latents.globals.shape[1]), value=True)
        return (context, valid) if latents.globals is not None else _never_empty(context, valid)

    def _asking(self, latents: Latents, projected: Float[Tensor, "b k d"], query: Query) -> Float[Tensor, "b n d"]:
        """Queries for every place: what is visible there, or the mask token, with positions and vector."""
        b, n = len(projected), query.tokens.count
        asking: Tensor = self.mask_token.to(projected.dtype).expand(b, n + 1, -1)
        if self.name in dict(latents.layout):
            at = latents.places_of(self.name)[..., None].expand(-1, -1, projected.shape[-1])
            asking = asking.scatter(1, at, projected)
        return asking[:, :n] + self._codes(self.name, query.tokens).to(projected.dtype)

    def _codes(self, name: str, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        """Positions, and what says which modality it is."""
        codes: Tensor = self.positions[name](tokens)
        placed: Tensor = codes + self.vectors[name].to(codes.dtype)
        return placed


def _never_empty(
    context: Float[Tensor, "b c d"], valid: Bool[Tensor, "b c"] | None
) -> tuple[Float[Tensor, "b _c d"], Bool[Tensor, "b _c"] | None]:
    """A context in which a sample of which nothing is visible looks at zeros, so that its softmax is not empty."""
    if not context.shape[1]:
        return context.new_zeros(len(context), 1, context.shape[2]), None
    if valid is None:
        return context, None
    some = valid.any(dim=1, keepdim=True)
    return context * some[..., None], valid | ~some
