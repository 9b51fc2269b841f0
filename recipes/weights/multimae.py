"""MultiMAE's weights, as its code writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

from torch import Tensor

from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.decoders.decoder import Decoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    block_names,
    check_codes,
    mlp_ratio,
    move_affine,
    move_blocks,
    read_heads,
    square_patch,
)
from mmim.masking.dirichlet import Dirichlet
from mmim.modality import Modality
from mmim.model import Method
from modalities.depth import Depth
from modalities.image import Image
from modalities.semseg import SemSeg
from recipes.multimae import MULTIMAE

NAMES = {"image": "rgb", "depth": "depth", "semseg": "semseg"}
"""What the file calls our modalities."""
TASKS = {"image": "rgb", "norm_image": "norm_rgb", "depth": "depth", "semseg": "semseg"}
"""What the file calls our tasks."""
PARTS = {
    "embed": "proj_context",
    **{f"cross.{part}": f"decoder.{part}" for part in ("q", "kv", "proj")},
    **{part: part for part in ("query_norm", "context_norm", "out_norm", "mlp.fc1", "mlp.fc2")},
}
"""What the file calls a decoder's parts beside its blocks and its head."""
COLOURS = 3
DECODER_HEADS = {256: 8}
"""Of the published decoders, by width."""


class MultiMAEImporter(Importer):
    """From the official MultiMAE (github.com/EPFL-VILAB/MultiMAE), with any of its modalities and decoders.

    It orders the values of a patch (channel, row, column), where those of our pixels end with the channel; classes come
    first in both.
    """

    about: ClassVar[str] = "Official MultiMAE: pictures, depth and semantic maps, ViT encoder, any of the decoders."

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        width = ledger.shape("global_tokens", 3)[2]
        modalities = _read_modalities(ledger, width)
        encoder = _read_encoder(ledger, width, options)
        tasks = [task for task, theirs in TASKS.items() if f"output_adapters.{theirs}.mask_token" in ledger]
        decoders = {task: _read_decoder(ledger, task, modalities, options) for task in tasks}
        if lacking := [task for task in tasks if MULTIMAE.tasks[task].modality not in modalities]:
            raise CheckpointError(
                f"The file predicts {lacking[0]} and has no input adapter for it, which ours needs: leave the decoder "
                f"out, --drop 'output_adapters.{TASKS[lacking[0]]}.*'."
            )
        return Method(
            modalities=modalities,
            masking={name: MULTIMAE.masking[name] for name in modalities},
            budget=_read_budget(weights),
            encoder=encoder,
            decoders=decoders,
            tasks={task: MULTIMAE.tasks[task] for task in tasks},
            objective=MULTIMAE.objective if tasks else {},
        )


def _read_budget(weights: Weights) -> Dirichlet:
    """As many visible tokens as the run's arguments say, where the file holds them."""
    budget, told = cast("Dirichlet", MULTIMAE.budget), weights.settings.get("num_encoded_tokens")
    return replace(budget, total=told) if isinstance(told, int) else budget


def _read_modalities(ledger: Ledger, width: int) -> dict[str, Modality]:
    """The modalities that the file has input adapters for.

    Raises:
        CheckpointError: it has none.
    """
    there = [name for name, theirs in NAMES.items() if f"input_adapters.{theirs}.proj.weight" in ledger]
    if not there:
        raise CheckpointError(f"The file has no input adapter of {', '.join(NAMES.values())}: is it of MultiMAE?")
    patch = _patch(ledger)
    found: dict[str, Modality] = {}
    for name in there:
        adapter, new = f"input_adapters.{NAMES[name]}", f"trunk.embedders.{name}"
        rows, columns = ledger.shape(f"{adapter}.pos_emb", 4)[2:]
        size = (rows * patch, columns * patch)
        found[name] = _modality(ledger, name, size, patch)
        move_affine(ledger, f"{new}.proj", f"{adapter}.proj")
        if name == "semseg":
            ledger.move(f"{new}.class_emb.weight", f"{adapter}.class_emb.weight")
        check_codes(ledger, f"{adapter}.pos_emb", found[name], width)
    return found


def _patch(ledger: Ledger) -> int:
    """The side of a patch in pixels; that of classes alone tells it at a quarter of the resolution, as published."""
    for theirs in ("rgb", "depth"):
        if f"input_adapters.{theirs}.proj.weight" in ledger:
            return square_patch(ledger.shape(f"input_adapters.{theirs}.proj.weight", 4))
    return 4 * square_patch(ledger.shape("input_adapters.semseg.proj.weight", 4))


def _modality(ledger: Ledger, name: str, size: tuple[int, int], patch: int) -> Modality:
    """One of the recipe's modalities, as large as the file's."""
    base = MULTIMAE.modalities[name]
    if isinstance(base, Image | Depth):
        return replace(base, size=size, patch=patch)
    classes, class_width = ledger.shape("input_adapters.semseg.class_emb.weight", 2)
    piece = square_patch(ledger.shape("input_adapters.semseg.proj.weight", 4))
    if patch % piece:
        raise CheckpointError(f"Patches of {piece} classes do not divide those of {patch} pixels.")
    maps = cast("SemSeg", base)
    return replace(maps, size=size, patch=patch, stride=patch // piece, classes=classes, class_width=class_width)


def _read_encoder(ledger: Ledger, width: int, options: Options) -> JointEncoder:
    depth = ledger.count("encoder.")
    ledger.move("trunk.encoder.global_tokens", "global_tokens")
    move_blocks(ledger, "trunk.encoder.blocks.", "encoder.", depth, block_names("qkv"))
    return replace(
        cast("JointEncoder", MULTIMAE.encoder),
        width=width,
        depth=depth,
        heads=read_heads(ledger, options, width),
        mlp_ratio=mlp_ratio(ledger, "encoder.0."),
        global_tokens=ledger.shape("global_tokens", 3)[1],
    )


def _read_decoder(ledger: Ledger, task: str, modalities: Mapping[str, Modality], options: Options) -> Decoder:
    """A task's decoder, moved."""
    old, new = f"output_adapters.{TASKS[task]}.", f"decoders.{task}."
    width, _ = ledger.shape(f"{old}proj_context.weight", 2)
    depth, heads = (
        ledger.count(f"{old}decoder_transformer."),
        read_heads(ledger, options, width, DECODER_HEADS, "decoder"),
    )
    check_codes(ledger, f"{old}pos_emb", next(iter(modalities.values())), width)
    ledger.move(f"{new}mask_token", f"{old}mask_token")
    for name in modalities:
        ledger.move(f"{new}vectors.{name}", f"{old}task_embeddings.{NAMES[name]}")
    for ours, theirs in PARTS.items():
        move_affine(ledger, new + ours, old + theirs)
    move_blocks(ledger, f"{new}blocks.", f"{old}decoder_transformer.", depth, block_names("qkv"))
    channels = COLOURS if MULTIMAE.tasks[task].modality == "image" else 1

    def channel_last(rows: Tensor) -> Tensor:
        """Values of a patch in the order (row, column, channel), from (channel, row, column)."""
        exchanged: Tensor = rows.unflatten(0, (channels, -1)).transpose(0, 1).flatten(0, 1)
        return exchanged

    for kind in ("weight", "bias"):
        ledger.move(f"{new}heads.{task}.{kind}", f"{old}out_proj.{kind}", channel_last)
    return CrossAttentionDecoder(width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio(ledger, old))
