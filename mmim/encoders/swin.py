"""A Swin transformer on whole maps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from mmim.encoders.encoder import JOINT, Encoder, EncoderModule, Layout, Pass, Visible
from mmim.errors import OptionError, expect
from mmim.modality import Modality
from mmim.records import Latents, gather_tokens


@dataclass(frozen=True, kw_only=True)
class SwinEncoder(Encoder):
    """Attention in windows, every second block in shifted ones, in stages that halve rows and columns.

    Liu et al. 2021, section 3; SimMIM's default (Xie et al. 2022, section 4.1, with Swin-B). The stages are timm's,
    under timm's names. One modality on a 2-D grid; the embedder brings Swin's norm of the patch embedding. A latent
    stands for `stride` x `stride` tokens.

    At another grid than in training the windows stay. One that the windows do not divide is padded with zeros that
    are attended to, as timm and the official code do.
    """

    whole_maps: ClassVar[bool] = True

    width: int = 128
    """Channels of the first stage, twice as many in each that follows (Swin-B: 128; Swin-L: 192)."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each stage (Swin-B, Swin-L: 2, 2, 18, 2)."""
    heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads of each stage (Swin-B: 4, 8, 16, 32)."""
    window: int = 6
    """Rows and columns of a window, in tokens; a smaller map is one window (SimMIM at 192 pixels: 6, Swin-L: 12)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (Swin: 4)."""
    drop_path: float = 0.0
    """Chance that a sample skips a residual of the last block, growing linearly from 0 (SimMIM: 0)."""
    eps: float = 1e-5
    """Of every norm (Swin and SimMIM's Swin: torch's default, 1e-5)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "encoder.width")
        expect(len(self.depths) >= 1 and min(self.depths) >= 1, self.depths, "at least 1 per stage", "encoder.depths")
        expect(len(self.heads) == len(self.depths), self.heads, f"{len(self.depths)} numbers", "encoder.heads")
        for stage, heads in enumerate(self.heads):
            width = self.width * 2**stage
            expect(heads >= 1 and width % heads == 0, heads, f"a divisor of {width}", f"encoder.heads.{stage}")
        expect(self.window >= 1, self.window, "at least 1", "encoder.window")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "encoder.mlp_ratio")
        expect(0 <= self.drop_path < 1, self.drop_path, "a share in [0, 1)", "encoder.drop_path")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "encoder.eps")

    @property
    def latent_width(self) -> int:
        return self.width * self.stride

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.depths) - 1))

    def build(self, modalities: Mapping[str, Modality]) -> "SwinEncoderModule":
        if len(modalities) != 1:
            raise OptionError(
                f"SwinEncoder encodes one modality, and there are {', '.join(modalities)}: use the joint encoder."
            )
        ((name, modality),) = modalities.items()
        return SwinEncoderModule(self, _map(name, modality.grid(), self.stride))


class SwinEncoderModule(EncoderModule):
    """The module of a `SwinEncoder`; `grid` is that of training.

    Linear layers are normal with deviation 0.02 and zero biases, as in SimMIM and Swin.
    """

    def __init__(self, config: SwinEncoder, grid: tuple[int, int]) -> None:
        super().__init__()
        self.stride = config.stride
        blocks = sum(config.depths)
        rates = [config.drop_path * number / max(blocks - 1, 1) for number in range(blocks)]
        before = [sum(config.depths[:stage]) for stage in range(len(config.depths) + 1)]
        self.layers = nn.Sequential(
            *(
                _stage(config, stage, grid, rates[before[stage] : before[stage + 1]])
                for stage in range(len(config.depths))
            )
        )
        self.norm = nn.LayerNorm(config.latent_width, eps=config.eps)
        self.apply(_init)

    def branch(self, name: str, visible: Visible) -> Visible:
        """Positions added, and tokens in raster order."""
        if visible.ids.shape[1] != visible.tokens.count or visible.valid is not None:
            raise OptionError(
                f"SwinEncoder needs whole maps, and of {name!r} it is handed {visible.ids.shape[1]} of "
                f"{visible.tokens.count} tokens{'' if visible.valid is None else ', padded ones among them'}: use the "
                "corruption mask_token and samples of one size, or the joint encoder."
            )
        order = visible.ids.argsort(dim=1)
        return replace(
            visible,
            values=gather_tokens(visible.values + visible.positions, order),
            positions=gather_tokens(visible.positions, order),
            ids=gather_tokens(visible.ids, order),
        )

    def joint(
        self,
        visible: Mapping[str, Visible],
        layout: Layout,
        present: Mapping[str, Bool[Tensor, " b"]],
        how: Pass = JOINT,
    ) -> Latents:
        ((name, part),) = visible.items()
        grid = _map(name, part.tokens.grid, self.stride)
        out: Float[Tensor, "b h w d"] = self.norm(self.layers(part.values.unflatten(1, grid)))
        n = prod(grid) // self.stride**2
        at = torch.arange(n, device=out.device).expand(len(out), -1)
        return Latents(out.flatten(1, 2), at, ((name, n),))


def _stage(config: SwinEncoder, stage: int, grid: tuple[int, int], rates: list[float]) -> Any:
    """One of timm's stages: from the second on it begins by merging 2 x 2 tokens. No mask is kept, so any grid fits."""
    merged = 2 ** max(stage - 1, 0)
    return SwinTransformerStage(
        dim=config.width * merged,
        out_dim=config.width * 2**stage,
        input_resolution=(grid[0] // merged, grid[1] // merged),
        depth=config.depths[stage],
        downsample=stage > 0,
        num_heads=config.heads[stage],
        window_size=config.window,
        dynamic_mask=True,
        mlp_ratio=config.mlp_ratio,
        drop_path=rates,
        norm_layer=partial(nn.LayerNorm, eps=config.eps),
    )


def _map(name: str, grid: tuple[int, ...] | None, stride: int) -> tuple[int, int]:
    """The grid of a modality, if the stages can halve it."""
    if grid is None or len(grid) != 2 or any(extent % stride for extent in grid):
        raise OptionError(
            f"SwinEncoder needs a 2-D grid that its stages can halve to {stride} x {stride} tokens per latent, and "
            f"that of {name!r} is {grid}: use sizes that {stride} patches divide, or fewer stages."
        )
    return grid[0], grid[1]


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
