"""Folders of transformers: ViTMAE and VideoMAE."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError
from mmim.interop.converter import Importer, Options, Setting
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import Grid, Table, move_affine, move_class_token, move_ends, read_grids, read_positions
from mmim.layers.block import Bias
from mmim.model import Method
from modalities.video import Video
from recipes.mae import MAE
from recipes.videomae import VIDEOMAE
from recipes.weights.huggingface_export import LAST_EPS
from recipes.weights.pixels import COLOURS, method_of, pictures, read_colours
from recipes.weights.videomae import ENDS as VIDEO_ENDS

# The defaults of transformers' two configurations: a config.json may leave out what is at its default.
SHARED: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
VITMAE: dict[str, Any] = SHARED | {
    "qkv_bias": True,
    "decoder_num_attention_heads": 16,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
VIDEO: dict[str, Any] = SHARED | {
    "num_frames": 16,
    "tubelet_size": 2,
    "qv_bias": True,
    "use_mean_pooling": True,
    "decoder_num_attention_heads": 6,
    "decoder_hidden_size": 384,
    "decoder_num_hidden_layers": 4,
    "decoder_intermediate_size": 1536,
    "norm_pix_loss": True,
}

ENDS = ("decoder.mask_token", "decoder.decoder_embed", "decoder.decoder_norm", "decoder.decoder_pred")
"""What ViTMAE calls a decoder's parts beside its blocks."""

# From the names in files (those of the published ones and those that transformers 5 gives its modules) to ours.
_SPELLINGS: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r"^(vit|videomae)\.", ""),
    (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder.blocks."),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.attention\.attention\.([qv])_bias$", r".attn.\1.bias"),
    (r"\.attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.", lambda m: f".attn.{(m[1] or m[2])[0]}."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def spelling(name: str) -> str:
    """Our word for a name in a file."""
    for pattern, new in _SPELLINGS:
        name = re.sub(pattern, new, name)
    return name


class HFViTMAEImporter(Importer):
    """From a folder of transformers' ViTMAE, with or without the decoder."""

    about: ClassVar[str] = "transformers' ViTMAE: a folder with config.json, with or without the decoder."
    settings: ClassVar[Mapping[str, Setting]] = COLOURS

    def spelling(self, name: str) -> str:
        return spelling(name)

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        config = read_config(weights, "vit_mae", VITMAE)
        width, patch = int(config["hidden_size"]), _side(config["patch_size"], "patch_size")
        rows = ledger.shape("embeddings.position_embeddings", 3)[1]
        grids = read_grids(rows - 1, patch, options, _known_grid(config["image_size"], patch))
        bias: Bias = "qkv" if config["qkv_bias"] else "none"
        decoder = _read_decoder(config, bias) if "decoder.mask_token" in ledger else None
        image = pictures(patch, read_colours(ledger, options, {}))
        tables = [Table("embeddings.position_embeddings", "trunk.positions.image.table", width)]
        if decoder is not None:
            table = "decoders.image.positions.image.table"
            tables.append(Table("decoder.decoder_pos_embed", table, decoder.width))
        positions, row = read_positions(ledger, tables, ["sincos"], image, grids, True)
        move_class_token(ledger, "embeddings.cls_token", row)
        encoder = replace(_read_encoder(config, bias), global_tokens=1)
        _move_encoder(ledger, "image", encoder)
        if decoder is not None:
            _move_decoder(ledger, "image", decoder, ENDS)
        chosen, ratio, normalised = image(positions, grids.asked), config["mask_ratio"], config["norm_pix_loss"]
        return method_of(MAE, chosen, encoder, decoder, ledger, options, ratio=ratio, normalised=normalised)


class HFVideoMAEImporter(Importer):
    """From a folder of transformers' VideoMAE, with or without the decoder."""

    about: ClassVar[str] = "transformers' VideoMAE: a folder with config.json, with or without the decoder."

    def spelling(self, name: str) -> str:
        return spelling(name)

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        config = read_config(weights, "videomae", VIDEO)
        video = replace(
            cast("Video", VIDEOMAE.modalities["video"]),
            frames=config["num_frames"],
            size=_side(config["image_size"], "image_size"),
            patch=_side(config["patch_size"], "patch_size"),
            tubelet=config["tubelet_size"],
        )
        bias: Bias = "qv" if config["qv_bias"] else "none"
        normed = not config["use_mean_pooling"]  # fact: with mean pooling the model has no norm after its last block
        encoder = replace(_read_encoder(config, bias), final_norm=normed)
        if not normed:
            ledger.remarks.append("no norm after the last block, as the config's use_mean_pooling asks")
        decoder = None
        _move_encoder(ledger, "video", encoder)
        if "encoder_to_decoder.weight" in ledger:
            decoder = replace(_read_decoder(config, bias), embed_bias=False)
            _move_decoder(ledger, "video", decoder, VIDEO_ENDS)
            if decoder.eps != LAST_EPS:
                ledger.remarks.append(f"the decoder's last norm has eps {decoder.eps:g}, in transformers {LAST_EPS:g}")
        ratio, normalised = config.get("mask_ratio"), config["norm_pix_loss"]
        return method_of(VIDEOMAE, video, encoder, decoder, ledger, options, ratio=ratio, normalised=normalised)


def read_config(weights: Weights, kind: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's configuration.

    Raises:
        CheckpointError: there is none, it is of another model, or of a variant that ours can't be.
    """
    if not weights.config:
        raise CheckpointError(
            f"{weights.path} is one file: give the folder with its config.json, which tells the sizes."
        )
    config = {**defaults, **weights.config}
    if config.get("model_type") != kind:
        raise CheckpointError(f"config.json is of model_type {config.get('model_type')!r}, and this is for {kind!r}.")
    for name, value in (("hidden_act", "gelu"), ("num_channels", 3)):
        if config.get(name, value) != value:
            raise CheckpointError(f"config.json has {name} {config[name]!r}, and ours is {value!r}.")
    for name, value in defaults.items():
        fits = type(config[name]) is type(value) or (isinstance(value, float) and isinstance(config[name], int))
        if not fits and not (name in ("image_size", "patch_size") and isinstance(config[name], list)):
            raise CheckpointError(f"config.json has {name} {config[name]!r}; it must be like {value!r}.")
    return config


def _known_grid(size: int | list[int], patch: int) -> dict[int, Grid]:
    """The grid that a config tells, by its number of places."""
    height, width = (size, size) if isinstance(size, int) else size
    return {height // patch * (width // patch): (height // patch, width // patch)}


def _side(value: int | list[int], name: str) -> int:
    if isinstance(value, int):
        return value
    if len(set(value)) != 1:
        raise CheckpointError(f"config.json has {name} {value}, which is not square, and ours must be.")
    return value[0]


def _read_encoder(config: Mapping[str, Any], bias: Bias) -> JointEncoder:
    return JointEncoder(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        bias=bias,
        eps=float(config["layer_norm_eps"]),
    )


def _read_decoder(config: Mapping[str, Any], bias: Bias) -> SelfAttentionDecoder:
    return SelfAttentionDecoder(
        width=config["decoder_hidden_size"],
        depth=config["decoder_num_hidden_layers"],
        heads=config["decoder_num_attention_heads"],
        mlp_ratio=config["decoder_intermediate_size"] / config["decoder_hidden_size"],
        bias=bias,
        eps=float(config["layer_norm_eps"]),
    )


def _move_encoder(ledger: Ledger, name: str, encoder: JointEncoder) -> None:
    move_affine(ledger, f"trunk.embedders.{name}.proj", "embeddings.patch_embeddings.projection")
    join_blocks(ledger, "trunk.encoder.blocks.", "blocks.", encoder.depth, encoder.bias)
    if encoder.final_norm:
        move_affine(ledger, "trunk.encoder.norm", "layernorm")


def _move_decoder(ledger: Ledger, name: str, decoder: SelfAttentionDecoder, ends: tuple[str, str, str, str]) -> None:
    join_blocks(ledger, f"decoders.{name}.blocks.", "decoder.blocks.", decoder.depth, decoder.bias)
    move_ends(ledger, name, ends, decoder.embed_bias)


_SAME = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")


def join_blocks(ledger: Ledger, new: str, old: str, depth: int, bias: Bias) -> None:
    """Blocks with queries, keys and values joined."""
    for block in range(depth):
        here, there = f"{new}{block}.", f"{old}{block}."
        for name in _SAME:
            move_affine(ledger, f"{here}{name}", f"{there}{name}")
        ledger.join(f"{here}attn.qkv.weight", [f"{there}attn.{part}.weight" for part in "qkv"])
        if bias == "qkv":
            ledger.join(f"{here}attn.qkv.bias", [f"{there}attn.{part}.bias" for part in "qkv"])
        if bias == "qv":
            for part in "qv":
                ledger.move(f"{here}attn.{part}_bias", f"{there}attn.{part}.bias")
