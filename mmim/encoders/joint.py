"""A ViT on the visible tokens: branches per modality, then shared blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmim.encoders.encoder import Encoder, EncoderModule
from mmim.layers.block import Bias, Block, attention_mask


@dataclass(frozen=True, kw_only=True)
class JointEncoder(Encoder):
    """Pre-norm transformer blocks: `branch_depth` for each modality alone, then `depth` that all share, then a norm.

    (0, 12) is MAE and VideoMAE with one modality, MultiMAE and 4M with several.
    """

    width: int = 768
    """Channels of a token (d)."""
    depth: int = 12
    """Shared blocks."""
    heads: int = 12
    """Attention heads."""
    branch_depth: int = 0
    """Blocks of each modality before the shared ones."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width."""
    bias: Bias = "qkv"
    """Attention biases: one fused vector (MAE), q and v only (VideoMAE), none."""
    eps: float = 1e-6
    """Of every norm."""
    final_norm: bool = True
    """A norm after the last block (MultiMAE has none)."""

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

    def branch(
        self, name: str, values: Float[Tensor, "b k d"], valid: Bool[Tensor, "b k"] | None
    ) -> Float[Tensor, "b k d"]:
        if name not in self.branches:
            return values
        return _run(self.branches[name], values, valid)

    def joint(self, values: Float[Tensor, "b k d"], valid: Bool[Tensor, "b k"] | None) -> Float[Tensor, "b k d"]:
        out: Tensor = self.norm(_run(self.blocks, values, valid))
        return out


def _run(blocks: nn.Module, values: Tensor, valid: Bool[Tensor, "b k"] | None) -> Tensor:
    mask = None if valid is None else attention_mask(valid)
    for block in blocks:  # type: ignore[attr-defined]
        values = block(values, mask)
    return values
