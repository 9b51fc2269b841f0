"""Audio-MAE's decoder: attention in small windows of the full map."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmim.decoders.decoder import Decoder, DecoderModule, Query
from mmim.encoders.encoder import Encoder
from mmim.errors import OptionError, expect
from mmim.layers.block import Mlp, init_linear
from mmim.layers.patches import grid_coords
from mmim.layers.window import Pair, from_windows, rolled, shift_within, to_windows, whole_windows, window_mask
from mmim.modality import Modality
from mmim.records import Latents, Tokens, gather_tokens

COLDEST = 0.01  # a temperature below it counts as this one


@dataclass(frozen=True, kw_only=True)
class LocalAttentionDecoder(Decoder):
    """Put visible latents and mask tokens on the full map and attend in windows, shifted in every second block.

    Huang et al. 2022 (Audio-MAE), section 3.3, "decoder_mode 1" of its code: what is near in a spectrogram belongs
    together, unlike far notes of a scale. The block is Swin V2's (Liu et al. 2022, section 3): norms at the end of each
    residual, cosine attention with a temperature per head, a bias from an MLP of the log-spaced offset.

    One modality on a 2-D grid of any extent: windows at the edge are padded, and padding is not attended to. Places
    neither visible nor asked for, and invalid ones, are not attended to either. Global tokens of the encoder and
    latents of other modalities are left out.

    Differs  across the seam of shifted windows nobody attends to anybody; Audio-MAE subtracts 100 from such logits,
             which is the same unless a temperature falls below about 0.03
    """

    width: int = 512
    """Channels of a token in the decoder (Audio-MAE: 512)."""
    depth: int = 16
    """Blocks (Audio-MAE: 16, whatever its depth option says)."""
    heads: int = 16
    """Attention heads (Audio-MAE: 16)."""
    window: tuple[int, int] = (4, 4)
    """Extent of a window along the two axes of the grid, in tokens (Audio-MAE: 4 in time and 4 in frequency)."""
    shift: tuple[int, int] = (2, 0)
    """By how much the windows of every second block are shifted (Audio-MAE: by 2 in time only)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (Audio-MAE: 4)."""
    bias_width: int = 384
    """Hidden width of the MLP that makes the bias of an offset (Audio-MAE: 384)."""
    bias_dropout: float = 0.1
    """Dropout in training after both layers of that MLP (Audio-MAE: 0.1)."""
    eps: float = 1e-6
    """Of every norm (Audio-MAE: 1e-6)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "decoder.width")
        expect(self.depth >= 0, self.depth, "at least 0", "decoder.depth")
        fits = self.heads >= 1 and self.width % self.heads == 0
        expect(fits, self.heads, f"a divisor of the width, {self.width}", "decoder.heads")
        expect(min(self.window) >= 1, self.window, "at least 1 along both axes", "decoder.window")
        fits = all(0 <= shift < side for shift, side in zip(self.shift, self.window, strict=True))
        expect(fits, self.shift, f"at least 0 and below the window, {self.window}", "decoder.shift")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "decoder.mlp_ratio")
        expect(self.bias_width >= 1, self.bias_width, "at least 1", "decoder.bias_width")
        expect(0 <= self.bias_dropout < 1, self.bias_dropout, "a share in [0, 1)", "decoder.bias_dropout")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "LocalAttentionDecoderModule":
        names = sorted({modality for modality, _ in tasks.values()})
        if len(names) != 1:
            raise OptionError(
                f"A local_attention decoder predicts one modality, and its tasks have {', '.join(names) or 'none'}: "
                "give each modality a decoder of its own."
            )
        if encoder.stride > 1:
            raise OptionError(
                f"A local_attention decoder needs one latent per token, and {type(encoder).__name__} has a stride of "
                f"{encoder.stride}: use the linear decoder."
            )
        _map(names[0], modalities[names[0]].grid())
        return LocalAttentionDecoderModule(self, names[0], modalities[names[0]], encoder.latent_width, tasks)


class LocalAttentionDecoderModule(DecoderModule):
    """The module of a `LocalAttentionDecoder`."""

    def __init__(
        self,
        config: LocalAttentionDecoder,
        name: str,
        modality: Modality,
        latent_width: int,
        tasks: Mapping[str, tuple[str, int]],
    ) -> None:
        super().__init__()
        self.name, self.window, self.shift = name, config.window, config.shift
        self.embed = nn.Linear(latent_width, config.width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, config.width), std=0.02))
        self.positions = nn.ModuleDict({name: modality.position(config.width)})
        self.blocks = nn.ModuleList(LocalBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.heads = nn.ModuleDict({task: nn.Linear(config.width, size) for task, (_, size) in tasks.items()})
        self.apply(init_linear)

    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        query, here = queries[self.name], tokens[self.name]
        if query.twice or query.tokens is not here:
            raise OptionError(
                "A local_attention decoder has one token at each place of a map, and visible places, or those of "
                "another sequence, are asked for: use the self_attention decoder."
            )
        grid = _map(self.name, here.grid)
        x = self._with_mask_tokens(latents, here.count) + self.positions[self.name](here)
        known = _known(latents, self.name, query, here.count)
        x = self._attend(x.unflatten(1, grid), None if known is None else known.unflatten(1, grid))
        asked = self.norm(gather_tokens(x.flatten(1, 2), query.ids))
        return {task: head(asked) for task, head in self.heads.items()}

    def _with_mask_tokens(self, latents: Latents, n: int) -> Float[Tensor, "b n d"]:
        """All places of the map: the latents where there are any, the mask token everywhere else."""
        seen = self.embed(latents.values)
        at = latents.places_of(self.name)[..., None].expand(seen.shape)
        everywhere = self.mask_token.to(seen.dtype).expand(len(seen), n + 1, -1)  # the last for latents without a place
        return everywhere.scatter(1, at, seen)[:, :n]

    def _attend(self, x: Float[Tensor, "b h w d"], known: Bool[Tensor, "b h w"] | None) -> Float[Tensor, "b h w d"]:
        """The blocks, on a map padded to whole windows, without a mask wherever everything is statically full."""
        height, width = extent = (x.shape[1], x.shape[2])
        grid = whole_windows(extent, self.window)
        if grid != extent:
            known = x.new_ones(1, *extent, dtype=torch.bool) if known is None else known
            margin = (0, grid[1] - width, 0, grid[0] - height)
            x, known = F.pad(x, (0, 0, *margin)), F.pad(known, margin)
        shifts = ((0, 0), shift_within(extent, self.window, self.shift))
        masks = [window_mask(grid, self.window, shift, known, x.device) for shift in shifts]
        for number, block in enumerate(self.blocks):
            x = block(x, shifts[number % 2], masks[number % 2])
        return x[:, :height, :width]


class LocalBlock(nn.Module):
    """A transformer block in windows, with the norms at the end of its residuals. Liu et al. 2022 (Swin V2), 3.2."""

    def __init__(self, config: LocalAttentionDecoder) -> None:
        super().__init__()
        self.window = config.window
        self.attn = WindowAttention(config)
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)

    def forward(
        self, x: Float[Tensor, "b h w d"], shift: Pair, mask: Bool[Tensor, "_b windows area area"] | None
    ) -> Float[Tensor, "b h w d"]:
        """The map is whole windows; mask: of the rolled map."""
        windows = self.attn(to_windows(rolled(x, shift), self.window), mask)
        back = rolled(from_windows(windows, (x.shape[1], x.shape[2]), self.window), (-shift[0], -shift[1]))
        x = x + self.norm1(back)
        return x + self.norm2(self.mlp(x))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Cosine attention among the tokens of a window. Liu et al. 2022 (Swin V2), sections 3.2 and 3.3.

    Logits are cosines over `tau`, a temperature per head that starts at 1, plus the bias of the offset.
    """

    def __init__(self, config: LocalAttentionDecoder) -> None:
        super().__init__()
        self.window, self.num_heads = config.window, config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.tau = nn.Parameter(torch.ones(config.heads))
        self.meta_mlp = OffsetMlp(config.bias_width, config.heads, config.bias_dropout)

    def forward(
        self, x: Float[Tensor, "b windows area d"], mask: Bool[Tensor, "_b windows area area"] | None
    ) -> Float[Tensor, "b windows area d"]:
        b, windows, area, d = x.shape
        qkv = self.qkv(x).view(b, windows, area, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # b (windows heads) area channels
        heat = self.tau.clamp(min=COLDEST).repeat(windows)[:, None, None]
        q, k = F.normalize(q, dim=-1) / heat, F.normalize(k, dim=-1)
        bias = self.meta_mlp(log_offsets(self.window, self.tau)).permute(2, 0, 1)  # heads area area
        bias = bias.expand(1, windows, -1, -1, -1)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, :, None], -torch.inf)
        x = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=bias.flatten(1, 2), scale=1.0)
        x = x.unflatten(1, (windows, self.num_heads)).transpose(2, 3).flatten(3)
        out: Tensor = self.proj(x)
        return out


class OffsetMlp(nn.Module):
    """From an offset between two tokens to a number per head."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, hidden)
        self.fc2 = nn.Linear(hidden, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, offsets: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n heads"]:
        out: Tensor = self.dropout(self.fc2(self.dropout(F.relu(self.fc1(offsets)))))
        return out


def log_offsets(window: Pair, like: Tensor) -> Float[Tensor, "area area 2"]:
    """Where a token of a window (first axis) stands from another (second): sign times log(1 + distance)."""
    at = grid_coords(window, like.device)[0].to(like.dtype)
    offsets = at[:, None] - at[None, :]
    return offsets.sign() * offsets.abs().log1p()


def _known(latents: Latents, name: str, query: Query, n: int) -> Bool[Tensor, "b n"] | None:
    """Which places are visible or asked for; None where all of them statically are."""
    m = query.ids.shape[1]
    alone = len(latents.layout) == 1 and latents.valid is None
    if query.valid is None and (m == n or (alone and m + latents.at.shape[1] == n)):
        return None
    known = torch.zeros(len(query.ids), n + 1, dtype=torch.bool, device=query.ids.device)
    asked = query.ids if query.valid is None else torch.where(query.valid, query.ids, n)
    return known.scatter(1, latents.places_of(name), True).scatter(1, asked, True)[:, :n]  # type: ignore[call-overload]


def _map(name: str, grid: tuple[int, ...] | None) -> Pair:
    if grid is None or len(grid) != 2:
        raise OptionError(
            f"A local_attention decoder needs a 2-D grid, and that of {name!r} is {grid}: "
            "use the self_attention decoder."
        )
    return grid[0], grid[1]
