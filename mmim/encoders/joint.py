"""A ViT on the visible tokens: branches per modality, then shared blocks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor, nn

from mmim.encoders.encoder import Encoder, EncoderModule, Layout, Visible, pack
from mmim.errors import expect
from mmim.layers.block import Bias, Block, attention_mask
from mmim.records import Latents


@dataclass(frozen=True, kw_only=True)
class JointEncoder(Encoder):
    """Pre-norm transformer blocks: `branch_depth` for each modality alone, then `depth` that all share, then a norm.

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
    """Attention biases: one fused vector (MAE), q and v only (VideoMAE), none."""
    eps: float = 1e-6
    """Of every norm (MAE, VideoMAE: 1e-6)."""
    final_norm: bool = True
    """A norm after the last block (MAE, VideoMAE: yes; MultiMAE: no)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "encoder.width")
        expect(self.heads >= 1, self.heads, "at least 1", "encoder.heads")
        expect(self.branch_depth >= 0, self.branch_depth, "at least 0", "encoder.branch_depth")
        least = 0 if self.branch_depth else 1
        expect(self.depth >= least, self.depth, f"at least {least}", "encoder.depth")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "encoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "encoder.eps")

    def build(self, modalities: Sequence[str]) -> "JointEncoderModule":
        return JointEncoderModule(self, modalities)


class JointEncoderModule(EncoderModule):
    """The module of a `JointEncoder`."""

    def __init__(self, config: JointEncoder, modalities: Sequence[str]) -> None:
        super().__init__()

        def blocks(depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(config.width, config.heads, mlp_ratio=config.mlp_ratio, bias=config.bias, eps=config.eps)
                for _ in range(depth)
            )

        self.branches = nn.ModuleDict({name: blocks(config.branch_depth) for name in modalities if config.branch_depth})
        self.blocks = blocks(config.depth)
        self.norm = nn.LayerNorm(config.width, eps=config.eps) if config.final_norm else nn.Identity()

    def branch(self, name: str, visible: Visible) -> Visible:
        values = visible.values + visible.positions
        if name in self.branches:
            values = _run(self.branches[name], values, visible.valid)
        return replace(visible, values=values)

    def joint(
        self, visible: Mapping[str, Visible], layout: Layout, present: Mapping[str, Bool[Tensor, " b"]]
    ) -> Latents:
        values, at, valid = pack(visible, layout, present)
        return Latents(self.norm(_run(self.blocks, values, valid)), at, layout, valid)


def _run(blocks: nn.Module, values: Tensor, valid: Bool[Tensor, "b k"] | None) -> Tensor:
    mask = None if valid is None else attention_mask(valid)
    for block in blocks:  # type: ignore[attr-defined]
        values = block(values, mask)
    return values
