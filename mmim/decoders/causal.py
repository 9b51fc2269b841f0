"""A language model behind the encoder: ids one after the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmim.decoders.decoder import Decoder, DecoderModule, Query
from mmim.encoders.encoder import Encoder
from mmim.errors import OptionError, expect
from mmim.layers.block import Bias, Block, Mask, attention_mask, init_linear, run_blocks
from mmim.modality import Modality
from mmim.records import Latents, Tokens, gather_tokens


@dataclass(frozen=True, kw_only=True)
class CausalDecoder(Decoder):
    """Predict each asked id from the encoder's output and the asked ids before it, in the order of the query.

    One sequence: the latents, which all attend to each other, then the true ids shifted by one (teacher forcing), each
    attending to the latents and to what stands before it. Ids carry the modality's position codes; latents are
    projected and carry nothing new, since the encoder has seen where they are. Several modalities share the latents and
    the blocks, and their ids don't see each other. A linear head reads every place.

    Paper    Raffel et al. 2020 (T5), sections 3.1.1 and 3.2.1: a decoder with a fully visible prefix, arXiv:1910.10683
    Differs  T5 itself reads the encoder through cross-attention, has relative biases for positions, RMS norms without
             biases, and one table for embeddings and head
    """

    waivers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "predictions_follow_the_places": "the order of the query is the order of the sequence",
            "hidden_content_stays_hidden": "teacher forcing: each id is predicted from the true ones before it",
        }
    )

    width: int = 768
    """Channels of a token in the decoder (T5-Base: 768)."""
    depth: int = 12
    """Blocks (T5-Base: 12)."""
    heads: int = 12
    """Attention heads (T5-Base: 12)."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (T5-Base: 4)."""
    bias: Bias = "qkv"
    """Attention biases: one fused vector, q and v only, none (T5: none)."""
    eps: float = 1e-6
    """Of every norm (T5, official code: 1e-6)."""

    def __post_init__(self) -> None:
        expect(self.width >= 1, self.width, "at least 1", "decoder.width")
        expect(self.depth >= 1, self.depth, "at least 1", "decoder.depth")
        expect(self.heads >= 1, self.heads, "at least 1", "decoder.heads")
        expect(0 < self.mlp_ratio < math.inf, self.mlp_ratio, "above 0 and finite", "decoder.mlp_ratio")
        expect(0 < self.eps < math.inf, self.eps, "above 0 and finite", "decoder.eps")

    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> "CausalDecoderModule":
        asked = {name: modalities[name] for name, _ in tasks.values()}
        for name, modality in asked.items():
            if modality.vocabulary is None or modality.piece:
                raise OptionError(
                    f"A causal decoder reads ids back, and the tokens of {name!r} are none: use self_attention."
                )
        return CausalDecoderModule(self, asked, encoder.latent_width, tasks)


class ShiftedIds(nn.Module):
    """Each place gets the embedded id of the one before, the first a learned vector; normal with deviation 0.02."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.ids = nn.Embedding(size, width)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        nn.init.normal_(self.ids.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
        start = self.start.expand(len(ids), -1, -1)
        return torch.cat([start, self.ids(ids[:, :-1])], dim=1)


class CausalDecoderModule(DecoderModule):
    """The module of a `CausalDecoder`, for the modalities that its tasks ask for."""

    def __init__(
        self,
        config: CausalDecoder,
        modalities: Mapping[str, Modality],
        latent_width: int,
        tasks: Mapping[str, tuple[str, int]],
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_width, config.width)
        self.inputs = nn.ModuleDict()
        for name, modality in modalities.items():
            assert modality.vocabulary is not None
            self.inputs[name] = ShiftedIds(modality.vocabulary.size, config.width)
        self.positions = nn.ModuleDict({name: modality.position(config.width) for name, modality in modalities.items()})
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
        prefix, valid = self._prefix(latents)
        parts, valids, places, start = [prefix], [valid], {}, prefix.shape[1]
        for name, query in queries.items():
            ids, codes = (
                gather_tokens(x, query.ids) for x in (query.tokens.values, self.positions[name](query.tokens))
            )
            parts.append(self.inputs[name](ids) + codes)
            valids.append(query.valid)
            places[name] = slice(start, start := start + query.ids.shape[1])
        x = run_blocks(self.blocks, torch.cat(parts, dim=1), _prefix_mask(parts, valids))
        normed = {name: self.norm(x[:, place]) for name, place in places.items()}
        return {task: self.heads[task](normed[name]) for task, name in self.modality_of.items() if name in normed}

    def _prefix(self, latents: Latents) -> tuple[Float[Tensor, "b k d"], Bool[Tensor, "b k"] | None]:
        """Latents and global tokens in the decoder's width, and which are valid."""
        if latents.globals is None:
            return self.embed(latents.values), latents.valid
        both, count = torch.cat([latents.values, latents.globals], dim=1), latents.globals.shape[1]
        valid = None if latents.valid is None else nn.functional.pad(latents.valid, (0, count), value=True)
        return self.embed(both), valid


def _prefix_mask(parts: Sequence[Float[Tensor, "b _ d"]], valids: Sequence[Bool[Tensor, "b _"] | None]) -> Mask:
    """Everybody attends to the first part, and in the others to what is not later in the same part."""
    device = parts[0].device
    part = torch.cat([torch.full((x.shape[1],), number, device=device) for number, x in enumerate(parts)])
    order = torch.arange(len(part), device=device)
    earlier = (part[:, None] == part) & (order[:, None] >= order)
    seen = (part == 0) | earlier  # row: who looks; column: at whom
    if all(valid is None for valid in valids):
        return seen[None, None]
    flags = [
        torch.ones_like(x[..., 0], dtype=torch.bool) if valid is None else valid
        for x, valid in zip(parts, valids, strict=True)
    ]
    return attention_mask(torch.cat(flags, dim=1)) & seen
