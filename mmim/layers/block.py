"""The transformer block, named as timm's so that state dicts load strictly both ways."""

from collections.abc import Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from mmim.errors import OptionError

Bias = Literal["qkv", "qv", "none"]
Norm = Literal["pre", "post"]
"""Whether norms stand before attention and MLP, inside of the residuals (ViT), or behind each sum (BERT)."""

Mask = Bool[Tensor, "_b 1 #n n"] | Float[Tensor, "_b #h #n n"]
"""True where a token may be attended to; or numbers to add to the logits of each head, -inf where it may not."""


class Attention(nn.Module):
    """Multi-head self-attention with one fused matrix, `qkv.weight [3 d, d]`.

    bias: "qkv" one fused vector (MAE); "qv" vectors `q_bias` and `v_bias` and none for the keys (VideoMAE, BEiT,
    SimMIM: a key bias shifts all logits of a query alike, so it changes nothing, and no state dict of theirs has
    one); "none".
    """

    def __init__(self, width: int, heads: int, bias: Bias = "qkv") -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"{heads} heads do not divide a width of {width}. Use a number of heads that does.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias == "qkv")
        self.q_bias = nn.Parameter(torch.zeros(width)) if bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if bias == "qv" else None
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], mask: Mask | None = None) -> Float[Tensor, "b n d"]:
        """mask: see `Mask`."""
        b, n, d = x.shape
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(b, n, d))
        return out


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A transformer block, pre-norm (Dosovitskiy et al. 2021, section 3.1) or post-norm (Vaswani et al. 2017).

    layer_scale  initial value of a learned factor for each channel of both residuals, `gamma_1` and `gamma_2` as BEiT
                 names them (Touvron et al. 2021, CaiT, section 2.1); None: no factor
    drop_path    chance that a sample skips a residual in training (Huang et al. 2016)
    own_norms    names that have norms of their own, `own.NAME.norm1` and `own.NAME.norm2`, for passes that ask for them
                 (CAV-MAE: a modality alone)

    Linear layers are drawn Xavier-uniform with zero biases, the fused qkv matrix as one (MAE and VideoMAE, official
    code).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        bias: Bias = "qkv",
        eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        norm: Norm = "pre",
        own_norms: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.post_norm = norm == "post"
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio + 1e-6))  # of a ratio that was once hidden / width
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.full((width,), layer_scale))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.own = nn.ModuleDict(
            {
                name: nn.ModuleDict({part: nn.LayerNorm(width, eps=eps) for part in ("norm1", "norm2")})
                for name in own_norms
            }
        )
        self.apply(init_linear)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Mask | None = None, own: str | None = None
    ) -> Float[Tensor, "b n d"]:
        """own: whose norms to use; None: the shared ones."""
        norm1, norm2 = (self.norm1, self.norm2) if own is None else (self.own[own]["norm1"], self.own[own]["norm2"])  # type: ignore[index]
        if self.post_norm:
            x = norm1(x + self._residual(self.attn(x, mask), self.gamma_1))
            return norm2(x + self._residual(self.mlp(x), self.gamma_2))  # type: ignore[no-any-return]
        x = x + self._residual(self.attn(norm1(x), mask), self.gamma_1)
        return x + self._residual(self.mlp(norm2(x)), self.gamma_2)

    def _residual(self, x: Float[Tensor, "b n d"], gamma: Float[Tensor, " d"] | None) -> Float[Tensor, "b n d"]:
        out: Tensor = self.drop_path(x if gamma is None else x * gamma)
        return out


Positions = Literal["once", "every_block"]
"""Whether position codes are added once, before the first block, or to the stream before every block (Point-MAE)."""


def run_blocks(
    blocks: nn.ModuleList,
    x: Float[Tensor, "b n d"],
    mask: Mask | None = None,
    positions: Float[Tensor, "b n d"] | None = None,
    own: str | None = None,
) -> Float[Tensor, "b n d"]:
    """Blocks one after the other; positions given are added before each. own: whose norms they use."""
    for block in blocks:
        x = block(x if positions is None else x + positions, mask, own)
    return x


def vectors_of(names: Collection[str], width: int) -> nn.ParameterDict:
    """A learned vector for each name, normal with deviation 0.02 (CAV-MAE, MultiMAE)."""
    return nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(1, 1, width)) for name in names})


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for a linear layer; anything else is left as it is."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def attention_mask(valid: Bool[Tensor, "b k"]) -> Bool[Tensor, "b 1 k k"]:
    """Everybody attends to valid tokens only; an invalid one to itself as well, so that no softmax is empty."""
    own = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return (valid[:, None, :] | own)[:, None]


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context, named as MultiMAE and 4M do: `q`, `kv.weight [2 d, d]`, `proj`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(f"{heads} heads do not divide a width of {width}. Use a number of heads that does.")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b m d"], context: Float[Tensor, "b k d"], valid: Bool[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """valid: what of the context may be attended to, one place of each row at least; None: all."""
        b, m, d = x.shape
        q = self.q(x).view(b, m, self.heads, d // self.heads).transpose(1, 2)
        k, v = self.kv(context).view(b, -1, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None if valid is None else valid[:, None, None])
        out: Tensor = self.proj(x.transpose(1, 2).reshape(b, m, d))
        return out
