"""Vision transformers of timm, as state dicts."""

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Exported, Exporter, Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    Grid,
    Table,
    bias_of,
    block_names,
    codes,
    final_norm,
    mlp_ratio,
    move_affine,
    move_blocks,
    move_class_token,
    read_grids,
    read_heads,
    read_positions,
    square_patch,
)
from mmim.model import Method
from modalities.image import Image
from recipes.mae import MAE
from recipes.weights.pixels import COLOURS, method_of, pictures, read_colours

EPS = 1e-6
"""Of every norm of timm's ViT."""


class TimmImporter(Importer):
    """From timm's `VisionTransformer` (github.com/huggingface/pytorch-image-models): an encoder without a decoder."""

    about: ClassVar[str] = "timm's ViT: images, encoder only; --drop 'head.*' where it has a head."
    settings: ClassVar[Mapping[str, Setting]] = COLOURS

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        for name, what in (("reg_token", "register tokens"), ("dist_token", "a distillation token")):
            if name in ledger:
                raise CheckpointError(f"{name!r}: our encoder has no place for {what}. Give a model without.")
        width, channels, *_ = shape = ledger.shape("patch_embed.proj.weight", 4)
        if channels != 3:
            raise CheckpointError(f"Our images have 3 colours, and this file {channels} channels.")
        patch, rows = square_patch(shape), ledger.shape("pos_embed", 3)[1]
        has_class, told = "cls_token" in ledger, _told(weights.config)
        known = _grids(told.get("input_size"), patch)
        class_rows = has_class and _has_class_row(ledger, rows, [*_grids(options.get("size"), patch), *known])
        grids = read_grids(rows - class_rows, patch, options, known)
        image = pictures(patch, read_colours(ledger, options, told))
        table = Table("pos_embed", "trunk.positions.image.table", width)
        positions, row = read_positions(ledger, [table], ["sincos"], image, grids, class_rows)
        if has_class:
            move_class_token(ledger, "cls_token", row)
        move_affine(ledger, "trunk.embedders.image.proj", "patch_embed.proj")
        chosen, encoder = image(positions, grids.asked), _encoder(ledger, width, has_class, options)
        return method_of(MAE, chosen, encoder, None, ledger, options, ratio=None, normalised=None)


def _grids(size: object, patch: int) -> dict[int, Grid]:
    """The grid of a size that ends in height and width, by its number of places."""
    if not isinstance(size, list | tuple) or len(size) < 2 or not all(isinstance(side, int) for side in size):
        return {}
    height, width = size[-2] // patch, size[-1] // patch
    return {height * width: (height, width)}


def _has_class_row(ledger: Ledger, rows: int, told: Sequence[int]) -> bool:
    """Whether one of the rows is the class token's; timm's `no_embed_class` leaves it out.

    told: how many places --size or a config has.

    Raises:
        OptionError: nothing tells a square grid from one that is not square and a row more.
    """
    if found := [places for places in told if places in (rows - 1, rows)]:
        return found[0] == rows - 1
    if isqrt(rows) ** 2 == rows:
        side = isqrt(rows)
        raise OptionError(
            f"'pos_embed' has {rows} rows, and {side} x {side} places or {rows - 1} with one for the class token would "
            "both fit: give --size, as trained."
        )
    ledger.remarks.append(f"'pos_embed' read as {rows - 1} places and one for the class token; --size says otherwise")
    return True


def _told(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a folder of timm says of its input."""
    told = config.get("pretrained_cfg", config)
    return told if isinstance(told, Mapping) else {}


def _encoder(ledger: Ledger, width: int, has_class: bool, options: Options) -> JointEncoder:
    first = "blocks.0."
    depth, bias, scaled = ledger.count("blocks."), bias_of(ledger, first), f"{first}ls1.gamma" in ledger
    move_blocks(ledger, "trunk.encoder.blocks.", "blocks.", depth, block_names(bias))
    for block, number in ((block, number) for block in range(depth) for number in (1, 2) if scaled):
        ledger.move(f"trunk.encoder.blocks.{block}.gamma_{number}", f"blocks.{block}.ls{number}.gamma")
    return JointEncoder(
        width=width,
        depth=depth,
        heads=read_heads(ledger, options, width),
        bias=bias,
        mlp_ratio=mlp_ratio(ledger, first),
        layer_scale=1e-5 if scaled else None,
        final_norm=final_norm(ledger, "norm"),
        global_tokens=int(has_class),
    )


class TimmExporter(Exporter):
    """To timm's `VisionTransformer`, for `timm.create_model("vit_...", num_classes=0).load_state_dict`."""

    about: ClassVar[str] = "timm's ViT: the encoder of an image model, one .safetensors file."

    def convert(self, ledger: Ledger, method: Method) -> Exported:
        name, image, encoder = _sayable(method)
        left = [*ledger.leave("decoders."), *ledger.leave("terms."), *ledger.leave("trunk.corruption.")]
        if left:
            ledger.remarks.append(f"left out {len(left)} tensors of decoders, losses and mask tokens")
        has_class = encoder.global_tokens == 1
        _move_positions(ledger, f"trunk.positions.{name}.table", image, encoder.width, has_class)
        if has_class:
            ledger.move("cls_token", "trunk.encoder.global_tokens")
        move_affine(ledger, "patch_embed.proj", f"trunk.embedders.{name}.proj")
        move_affine(ledger, "norm", "trunk.encoder.norm")
        _move_blocks(ledger, encoder)
        if encoder.eps != EPS:
            ledger.remarks.append(
                f"timm's norms have eps {EPS:g}, and this model's {encoder.eps:g}: features differ a little"
            )
        ledger.remarks.append(
            f"for a ViT of width {encoder.width}, depth {encoder.depth}, {encoder.heads} heads, patch {image.patch}, "
            f"img_size {image.size}, num_classes=0; colours with mean {image.mean} and deviation {image.std}"
        )
        return Exported(ledger.result, None, ledger.remarks)


def _sayable(method: Method) -> tuple[str, Image, JointEncoder]:
    """The one modality and the encoder, if timm's ViT can be them.

    Raises:
        OptionError: it can't; the message says why.
    """
    (name, modality), encoder = next(iter(method.modalities.items())), method.encoder
    why = None
    if len(method.modalities) != 1 or not isinstance(modality, Image):
        kinds = ", ".join(type(part).__name__ for part in method.modalities.values())
        why = f"it encodes images, and this method {kinds}"
    elif not isinstance(encoder, JointEncoder) or encoder.branch_depth:
        why = "this method's encoder is no plain ViT"
    elif encoder.relative_bias:
        why = "its ViT has no relative position bias"
    elif not encoder.final_norm:
        why = "its ViT ends with a norm, and this encoder does not"
    elif encoder.global_tokens > 1:
        why = f"its ViT has one class token, and this encoder {encoder.global_tokens} global tokens"
    elif modality.embed_norm:
        why = "its ViT has no norm after the patch embedding"
    if why is not None:
        raise OptionError(f"timm's ViT can't be this model: {why}.")
    return name, cast("Image", modality), cast("JointEncoder", encoder)


def _move_positions(ledger: Ledger, old: str, image: Image, width: int, has_class: bool) -> None:
    """A table of all places, zeros for the class token first."""
    table = ledger.take(old) if image.positions == "learned" else codes(image, width)
    if table is not None:
        assert table.shape[1] == prod(image.grid())
        ledger.put("pos_embed", torch.nn.functional.pad(table.float(), (0, 0, int(has_class), 0)), old)


def _move_blocks(ledger: Ledger, encoder: JointEncoder) -> None:
    """Blocks; a missing bias of the keys is one of zeros."""
    names = block_names("none" if encoder.bias == "qv" else encoder.bias)
    move_blocks(ledger, "blocks.", "trunk.encoder.blocks.", encoder.depth, names)
    for number in range(encoder.depth):
        old, new = f"trunk.encoder.blocks.{number}.", f"blocks.{number}."
        if encoder.bias == "qv":
            query, value = ledger.take(f"{old}attn.q_bias"), ledger.take(f"{old}attn.v_bias")
            ledger.put(f"{new}attn.qkv.bias", _fused(query, value), f"{old}attn.q_bias")
        if encoder.layer_scale is not None:
            ledger.move(f"{new}ls1.gamma", f"{old}gamma_1")
            ledger.move(f"{new}ls2.gamma", f"{old}gamma_2")


def _fused(query: Tensor | None, value: Tensor | None) -> Tensor | None:
    return None if query is None or value is None else torch.cat([query, torch.zeros_like(query), value])
