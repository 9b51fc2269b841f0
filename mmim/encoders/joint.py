"""A ViT on the visible tokens: branches per modality, then shared blocks."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mmim.encoders.encoder import JOINT, Encoder, EncoderModule, Layout, Packed, Pass, Visible, pack
from mmim.errors import OptionError, expect
from mmim.layers.block import Bias, Block, Mask, Norm, Positions, attention_mask, run_blocks, vectors_of
from mmim.layers.relative import RelativeBias
from mmim.modality import Modality
from mmim.records import Latents


@dataclass(frozen=True, kw_only=True)
class JointEncoder(Encoder):
    """Transformer blocks: `branch_depth` for each modality alone, then `depth` that all share, then a norm.

    (0, 12) is MAE and VideoMAE with one modality, MultiMAE and 4M with several.
    """

    width: int = 768
    """Channels of a token, d (ViT-B of MAE and VideoMAE: 768)."""
    depth: int = 12
    """Shared blocks (ViT-B: 12)."""
    heads: int = 12
    """Attention heads (ViT-B: 12)."""
    branch_depth: int = 0
    """Blocks of each modality before the shared ones (MAE, VideoMAE, MultiMAE: 0; CAV-MAE: 11 before 1)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (ViT: 4)."""
    bias: Bias = "qkv"
    """Attention biases: one fused vector (MAE), q and v only (VideoMAE, SimMIM, BEiT), none."""
    eps: float = 1e-6
    """Of every norm (MAE, VideoMAE: 1e-6)."""
    norm: Norm = "pre"
    """Norms before attention and MLP (MAE, VideoMAE), or behind them (BERT)."""
    embed_norm: bool = False
    """A norm of content and position, before the first block (BERT, data2vec 2: yes)."""
    final_norm: bool = True
    """A norm after the last block (MAE, VideoMAE: yes; MultiMAE, and post-norm blocks: no)."""
    positions: Positions = "once"
    """Position codes added before the first block, or to the stream before every block (Point-MAE)."""
    global_tokens: int = 0
    """Learned tokens without a place that join the shared blocks (class token of MAE, global token of MultiMAE: 1)."""
    modality_vectors: bool = False
    """A learned vector for each modality, added to its tokens beside the positions (CAV-MAE, 4M: yes)."""
    own_norms: bool = False
    """Shared blocks and the last norm have, beside the norms of joint passes, a set for each modality, for passes of
    that modality alone (CAV-MAE: yes)."""
    relative_bias: bool = False
    """Learned bias by offset on the logits of all shared blocks; one modality on a 2-D grid (SimMIM, BEiT: yes)."""
    layer_scale: float | None = None
    """Initial factor of every residual channel; None has no factor (SimMIM, BEiT-B: 0.1)."""
    drop_path: float = 0.0
    """Chance that a sample skips a residual of the last block, growing linearly from 0 (SimMIM's ViT, BEiT: 0.1)."""
    init: Literal["xavier", "apart", "scaled"] = "xavier"
    """Of linear layers: Xavier-uniform (MAE, VideoMAE); the same with queries, keys and values as matrices apart
    (MultiMAE); or normal with deviation 0.02 cut off at one deviation, output projections of block i over sqrt(2 i)
    (SimMIM's ViT, BEiT)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "encoder.width")
        expect(self.heads >= 1, self.heads, "at least 1", "encoder.heads")
        expect(self.branch_depth >= 0, self.branch_depth, "at least 0", "encoder.branch_depth")
        least = 0 if self.branch_depth else 1
        expect(self.depth >= least, self.depth, f"at least {least}", "encoder.depth")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "encoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "encoder.eps")
        expect(self.global_tokens >= 0, self.global_tokens, "at least 0", "encoder.global_tokens")
        expect(0 <= self.drop_path < 1, self.drop_path, "a share in [0, 1)", "encoder.drop_path")
        scale = self.layer_scale
        expect(scale is None or math.isfinite(scale), scale, "finite, or None", "encoder.layer_scale")
        if self.norm == "post" and self.final_norm:
            raise OptionError("encoder.norm post ends with a norm already: use encoder.final_norm False.")
        if self.embed_norm and self.positions == "every_block":
            raise OptionError("encoder.embed_norm is for positions that are added once: leave it out.")
        if self.modality_vectors and self.positions == "every_block":
            raise OptionError("encoder.modality_vectors is for positions that are added once: leave it out.")

    def build(self, modalities: Mapping[str, Modality]) -> "JointEncoderModule":
        return JointEncoderModule(self, modalities)


class JointEncoderModule(EncoderModule):
    """The module of a `JointEncoder`."""

    def __init__(self, config: JointEncoder, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        depth = config.branch_depth + config.depth

        def blocks(start: int, stop: int, own_norms: Collection[str] = ()) -> nn.ModuleList:
            return nn.ModuleList(_block(config, number, depth, own_norms) for number in range(start, stop))

        def last_norm() -> nn.Module:
            return nn.LayerNorm(config.width, eps=config.eps) if config.final_norm else nn.Identity()

        apart = modalities if config.branch_depth else ()
        own = tuple(modalities) if config.own_norms else ()
        self.branches = nn.ModuleDict({name: blocks(0, config.branch_depth) for name in apart})
        self.blocks = blocks(config.branch_depth, depth, own)
        self.norm = last_norm()
        self.own_norm = nn.ModuleDict({name: last_norm() for name in own})
        self.vectors = vectors_of(modalities if config.modality_vectors else (), config.width)
        self.embed_norm = nn.LayerNorm(config.width, eps=config.eps) if config.embed_norm else nn.Identity()
        self.every_block = config.positions == "every_block"
        some = config.global_tokens > 0
        self.global_tokens = nn.Parameter(0.02 * torch.randn(1, config.global_tokens, config.width)) if some else None
        self.relative = RelativeBias(_only_map(modalities), config.heads) if config.relative_bias else None

    def branch(self, name: str, visible: Visible) -> Visible:
        codes = visible.positions if self.every_block else None
        values = visible.values if self.every_block else self.embed_norm(self._placed(name, visible))
        if name in self.branches:
            mask = None if visible.valid is None else attention_mask(visible.valid)
            values = run_blocks(cast("nn.ModuleList", self.branches[name]), values, mask, codes)
        return replace(visible, values=values)

    def _placed(self, name: str, visible: Visible) -> Float[Tensor, "b k d"]:
        """Content, position, and what says which modality it is."""
        placed = visible.values + visible.positions
        return placed + self.vectors[name].to(placed.dtype) if name in self.vectors else placed

    def joint(
        self,
        visible: Mapping[str, Visible],
        layout: Layout,
        present: Mapping[str, Bool[Tensor, " b"]],
        how: Pass = JOINT,
    ) -> Latents:
        packed = pack(visible, layout, present, how.room, positions=self.every_block)
        values, valid, codes = packed.values, packed.valid, packed.positions
        places = values.shape[1]
        everybody = valid
        if self.global_tokens is not None:
            tokens = self.global_tokens.to(values.dtype).expand(len(values), -1, -1)
            values = torch.cat([values, tokens], dim=1)
            everybody = None if valid is None else nn.functional.pad(valid, (0, tokens.shape[1]), value=True)
            codes = None if codes is None else nn.functional.pad(codes, (0, 0, 0, tokens.shape[1]))
        own = self._own(visible, how)
        blocks = self.blocks if how.chained else self.blocks[-1:]
        out = run_blocks(blocks, values, self._mask(visible, packed, everybody), codes, own)
        out = self.norm(out) if own is None else self.own_norm[own](out)
        globals_ = None if self.global_tokens is None else out[:, places:]
        return Latents(out[:, :places], packed.at, layout, valid, globals_)

    def _own(self, visible: Mapping[str, Visible], how: Pass) -> str | None:
        """Whose norms to use."""
        alone = next(iter(visible))
        return alone if how.own and len(visible) == 1 and alone in self.own_norm else None

    def _mask(self, visible: Mapping[str, Visible], packed: Packed, valid: Bool[Tensor, "b n"] | None) -> Mask | None:
        """What attention is told: nothing at all, where everything is statically full and has no bias."""
        allowed = None if valid is None else attention_mask(valid)
        if self.relative is None:
            return allowed
        (part,) = visible.values()
        num_globals = 0 if self.global_tokens is None else self.global_tokens.shape[1]
        bias: Tensor = self.relative(cast("tuple[int, int]", part.tokens.grid), num_globals)
        if packed.at.shape[1] < part.tokens.count:
            bias = _among(bias, packed.at, num_globals)
        return bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)


def _block(config: JointEncoder, number: int, depth: int, own_norms: Collection[str]) -> Block:
    """Block `number` from 0 of a stack of `depth`."""
    block = Block(
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        bias=config.bias,
        eps=config.eps,
        layer_scale=config.layer_scale,
        drop_path=config.drop_path * number / max(depth - 1, 1),
        norm=config.norm,
        own_norms=own_norms,
    )
    if config.init == "apart":
        for part in block.attn.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
    if config.init == "scaled":
        for linear in (module for module in block.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.02, b=0.02)
        for linear in (block.attn.proj, block.mlp.fc2):
            linear.weight.data.div_(math.sqrt(2 * (number + 1)))
    return block


def _among(
    bias: Float[Tensor, "1 heads n n"], ids: Int64[Tensor, "b k"], num_globals: int
) -> Float[Tensor, "b heads k2 k2"]:
    """The bias among some of the places, and the global tokens behind them."""
    places = bias.shape[-1] - num_globals
    last = torch.arange(places, places + num_globals, device=ids.device).expand(len(ids), -1)
    chosen = torch.cat([ids, last], dim=1)
    return bias[0][:, chosen[:, :, None], chosen[:, None, :]].movedim(1, 0)


def _only_map(modalities: Mapping[str, Modality]) -> tuple[int, int]:
    """The grid of the only modality.

    Raises:
        OptionError: there are several, or it is no 2-D grid.
    """
    grids = {name: modality.grid() for name, modality in modalities.items()}
    grid = next(iter(grids.values()))
    if len(grids) > 1 or grid is None or len(grid) != 2:
        raise OptionError(
            f"A relative bias is for one modality on a 2-D grid, and there are {grids}: use relative_bias False."
        )
    return grid
