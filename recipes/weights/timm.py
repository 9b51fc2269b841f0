"""Vision transformers of timm, as state dicts."""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt, prod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Exported, Exporter, Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    HEADS,
    Grid,
    Table,
    bias_of,
    block_names,
    codes,
    final_norm,
    image_options,
    mlp_ratio,
    move_affine,
    move_blocks,
    move_class_token,
    read_grids,
    read_positions,
    square_patch,
)
from mmim.layers.positions import MapPositions
from mmim.masking.budget import Ratio
from mmim.model import Method
from modalities.image import Image
from recipes.mae import MAE

EPS = 1e-6
"""Of every norm of timm's ViT."""


class TimmImporter(Importer):
    """From timm's `VisionTransformer` (github.com/huggingface/pytorch-image-models): an encoder without a decoder."""

    about: ClassVar[str] = "timm's ViT: images, encoder only; --drop 'head.*' where it has a head."

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        if "reg_token" in ledger:
            raise CheckpointError("'reg_token': register tokens with a place in the sequence are not supported.")
        width, channels, *_ = shape = ledger.shape("patch_embed.proj.weight", 4)
        if channels != 3:
            raise CheckpointError(f"Our images have 3 colours, and this file {channels} channels.")
        patch, rows = square_patch(shape), ledger.shape("pos_embed", 3)[1]
        has_class = "cls_token" in ledger
        class_rows = has_class and _has_class_row(rows, patch, options.get("size"))
        grids = read_grids(rows - class_rows, patch, options, {})
        colours = image_options(options, _told(weights.config))
        if len(colours) < 2:
            ledger.remarks.append("colours as ImageNet's mean and deviation, as nothing says others: --mean, --std")

        def image(positions: str, grid: Grid) -> Image:
            size, chosen = (grid[0] * patch, grid[1] * patch), cast("MapPositions", positions)
            base = replace(cast("Image", MAE.modalities["image"]), size=size, patch=patch, positions=chosen)
            return replace(base, **colours)  # type: ignore[arg-type]

        table = Table("pos_embed", "trunk.positions.image.table", width)
        positions, row = read_positions(ledger, [table], ["sincos"], image, grids, class_rows)
        if has_class:
            move_class_token(ledger, "cls_token", row)
        move_affine(ledger, "trunk.embedders.image.proj", "patch_embed.proj")
        budget = cast("Ratio", MAE.budget)
        return Method(
            modalities={"image": image(positions, grids.asked)},
            masking=MAE.masking,
            budget=replace(budget, ratio=options.need("ratio", budget.ratio, "the ratio")),
            encoder=_encoder(ledger, width, has_class, options),
            decoders={},
            tasks={},
            objective={},
        )


def _has_class_row(rows: int, patch: int, size: tuple[int, int] | None) -> bool:
    """Whether one of the rows is the class token's; timm's `no_embed_class` leaves it out."""
    if size is not None and (size[0] // patch) * (size[1] // patch) + 1 == rows:
        return True
    return isqrt(rows) ** 2 != rows


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
        heads=options.need("heads", HEADS.get(width), f"the heads of an encoder of width {width}"),
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
