"""Folders of transformers: ViTMAE and VideoMAE."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import CheckpointError, OptionError
from mmim.interop.converter import Exported, Exporter, Importer, Options
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.interop.vit import (
    Grid,
    Table,
    codes,
    image_options,
    move_affine,
    move_class_token,
    read_grids,
    read_positions,
)
from mmim.layers.block import Bias
from mmim.layers.positions import MapPositions
from mmim.masking.budget import Ratio
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.image import Image
from modalities.video import Video
from recipes.mae import MAE
from recipes.videomae import VIDEOMAE

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
LAST_EPS = 1e-5
"""Of the last norm of transformers' VideoMAE decoder, whatever its config says (official code: 1e-6)."""

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

    def spelling(self, name: str) -> str:
        return spelling(name)

    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        config = read_config(weights, "vit_mae", VITMAE)
        width, patch = int(config["hidden_size"]), _side(config["patch_size"], "patch_size")
        rows = ledger.shape("embeddings.position_embeddings", 3)[1]
        grids = read_grids(rows - 1, patch, options, _known_grid(config["image_size"], patch))
        bias: Bias = "qkv" if config["qkv_bias"] else "none"
        decoder = _read_decoder(config, bias) if "decoder.mask_token" in ledger else None
        colours = image_options(options, {})

        def image(positions: str, grid: Grid) -> Image:
            size, chosen = (grid[0] * patch, grid[1] * patch), cast("MapPositions", positions)
            base = replace(cast("Image", MAE.modalities["image"]), size=size, patch=patch, positions=chosen)
            return replace(base, **colours)  # type: ignore[arg-type]

        tables = [Table("embeddings.position_embeddings", "trunk.positions.image.table", width)]
        if decoder is not None:
            table = "decoders.image.positions.image.table"
            tables.append(Table("decoder.decoder_pos_embed", table, decoder.width))
        positions, row = read_positions(ledger, tables, ["sincos"], image, grids, True)
        move_class_token(ledger, "embeddings.cls_token", row)
        encoder = replace(_read_encoder(config, bias), global_tokens=1)
        _move_encoder(ledger, "image", encoder)
        if decoder is not None:
            _move_decoder(ledger, "image", decoder, ("decoder.decoder_embed", "decoder.decoder_pred"), "decoder.")
        target = Pixels(normalise="token" if config["norm_pix_loss"] else "none")
        return _method(MAE, "image", image(positions, grids.asked), encoder, decoder, target, config, options)


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
            _move_decoder(ledger, "video", decoder, ("encoder_to_decoder", "decoder.head"), "")
            if decoder.eps != LAST_EPS:
                ledger.remarks.append(f"the decoder's last norm has eps {decoder.eps:g}, in transformers {LAST_EPS:g}")
        normalise = "channel" if config["norm_pix_loss"] else "none"
        target = replace(cast("Pixels", VIDEOMAE.tasks["video"].target), normalise=normalise)  # type: ignore[arg-type]
        return _method(VIDEOMAE, "video", video, encoder, decoder, target, config, options)


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
        if config[name] != value:
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
    _join_blocks(ledger, "trunk.encoder.blocks.", "blocks.", encoder.depth, encoder.bias)
    if encoder.final_norm:
        move_affine(ledger, "trunk.encoder.norm", "layernorm")


def _move_decoder(ledger: Ledger, name: str, decoder: SelfAttentionDecoder, ends: tuple[str, str], token: str) -> None:
    """ends: the names of the projection in and of the head."""
    new = f"decoders.{name}."
    ledger.move(f"{new}mask_token", f"{token}mask_token")
    ledger.move(f"{new}embed.weight", f"{ends[0]}.weight")
    if decoder.embed_bias:
        ledger.move(f"{new}embed.bias", f"{ends[0]}.bias")
    _join_blocks(ledger, f"{new}blocks.", "decoder.blocks.", decoder.depth, decoder.bias)
    move_affine(ledger, f"{new}norm", "decoder.decoder_norm" if token else "decoder.norm")
    move_affine(ledger, f"{new}heads.{name}", ends[1])


_SAME = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")


def _join_blocks(ledger: Ledger, new: str, old: str, depth: int, bias: Bias) -> None:
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


def _method(
    recipe: Method,
    name: str,
    modality: Image | Video,
    encoder: JointEncoder,
    decoder: SelfAttentionDecoder | None,
    target: Pixels,
    config: Mapping[str, Any],
    options: Options,
) -> Method:
    """A recipe's method with what the config says."""
    budget = cast("Ratio", recipe.budget)
    ratio = options.need("ratio", config.get("mask_ratio", budget.ratio), "the ratio")
    return Method(
        modalities={name: modality},
        masking=recipe.masking,
        budget=replace(budget, ratio=float(ratio)),
        encoder=encoder,
        decoders={} if decoder is None else {name: decoder},
        tasks={} if decoder is None else {name: replace(recipe.tasks[name], target=target)},
        objective={} if decoder is None else recipe.objective,
    )


class TransformersExporter(Exporter):
    """To transformers' ViTMAEForPreTraining or VideoMAEForPreTraining, for `from_pretrained`."""

    about: ClassVar[str] = "transformers' ViTMAEForPreTraining or VideoMAEForPreTraining: a folder."

    def convert(self, ledger: Ledger, method: Method) -> Exported:
        modality = next(iter(method.modalities.values()))
        if len(method.modalities) == 1 and isinstance(modality, Image):
            return _export_images(ledger, method, modality)
        if len(method.modalities) == 1 and isinstance(modality, Video):
            return _export_videos(ledger, method, modality)
        kinds = ", ".join(type(part).__name__ for part in method.modalities.values())
        raise OptionError(f"transformers has a model like this for images or for videos alone, and here are {kinds}.")


def _refuse(model: str, reasons: Mapping[str, bool]) -> None:
    """Raise an OptionError with the first reason that holds."""
    if why := next((reason for reason, holds in reasons.items() if holds), None):
        raise OptionError(f"transformers' {model} can't be this model: {why}.")


def _parts(model: str, method: Method, bias: Bias) -> tuple[str, JointEncoder, str, SelfAttentionDecoder, str, Pixels]:
    """Names of modality, decoder and task, and the parts, if both halves are plain transformers of one kind.

    Raises:
        OptionError: they are not; the message says why.
    """
    encoder, (name,) = method.encoder, method.modalities
    if not isinstance(encoder, JointEncoder) or encoder.branch_depth:
        raise OptionError(f"transformers' {model} can't be this model: its encoder is no plain ViT.")
    if len(method.tasks) != 1 or len(method.decoders) != 1:
        raise OptionError(
            f"transformers' {model} has one decoder for one task, and here are {len(method.tasks)} tasks."
        )
    ((role, decoder),), ((label, task),) = method.decoders.items(), method.tasks.items()
    if not isinstance(decoder, SelfAttentionDecoder) or not isinstance(task.target, Pixels):
        raise OptionError(f"transformers' {model} predicts pixels by self-attention, and this method does not.")
    _refuse(
        model,
        {
            "it has no relative position bias": encoder.relative_bias,
            "it has no layer scale": encoder.layer_scale is not None,
            "it drops hidden tokens": any(part.keeps_all for part in method.corruption.values()),
            "its decoder projects first": decoder.project != "first",
            "encoder and decoder have one eps": encoder.eps != decoder.eps,
            "encoder and decoder have one kind of biases": encoder.bias != decoder.bias,
            f"its attention has biases of kind {bias!r} or none": encoder.bias not in (bias, "none"),
            "its loss is the squared error": task.target.error != "squared",
        },
    )
    return name, encoder, role, decoder, label, task.target


def _shared_config(encoder: JointEncoder, decoder: SelfAttentionDecoder, patch: int) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": int(encoder.width * encoder.mlp_ratio),
        "layer_norm_eps": encoder.eps,
        "patch_size": patch,
        "num_channels": 3,
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": int(decoder.width * decoder.mlp_ratio),
    }


def _export_images(ledger: Ledger, method: Method, image: Image) -> Exported:
    model = "ViTMAEForPreTraining"
    name, encoder, role, decoder, label, target = _parts(model, method, "qkv")
    plain = Pixels(normalise=target.normalise)
    _refuse(
        model,
        {
            "its pictures are square": image.size[0] != image.size[1],
            "it has a norm after the last block": not encoder.final_norm,
            "it has one class token": encoder.global_tokens != 1,
            "its decoder's projection has a bias": not decoder.embed_bias,
            "it has no norm after the patch embedding": image.embed_norm,
            "its target is raw or normalised token by token": target.normalise == "channel" or target != plain,
        },
    )
    ledger.move("vit.embeddings.cls_token", "trunk.encoder.global_tokens")
    for new, old, width in (
        ("vit.embeddings.position_embeddings", f"trunk.positions.{name}.table", encoder.width),
        ("decoder.decoder_pos_embed", f"decoders.{role}.positions.{name}.table", decoder.width),
    ):
        table = ledger.take(old) if image.positions == "learned" else codes(image, width)
        ledger.put(new, None if table is None else torch.nn.functional.pad(table.float(), (0, 0, 1, 0)), old)
    move_affine(ledger, "vit.embeddings.patch_embeddings.projection", f"trunk.embedders.{name}.proj")
    _split_blocks(ledger, "vit.encoder.layer.", "trunk.encoder.blocks.", encoder.depth, encoder.bias)
    move_affine(ledger, "vit.layernorm", "trunk.encoder.norm")
    ledger.move("decoder.mask_token", f"decoders.{role}.mask_token")
    move_affine(ledger, "decoder.decoder_embed", f"decoders.{role}.embed")
    _split_blocks(ledger, "decoder.decoder_layers.", f"decoders.{role}.blocks.", decoder.depth, decoder.bias)
    move_affine(ledger, "decoder.decoder_norm", f"decoders.{role}.norm")
    move_affine(ledger, "decoder.decoder_pred", f"decoders.{role}.heads.{label}")
    config = _shared_config(encoder, decoder, image.patch) | {
        "architectures": [model],
        "model_type": "vit_mae",
        "image_size": image.size[0],
        "qkv_bias": encoder.bias == "qkv",
        "norm_pix_loss": target.normalise == "token",
    }
    if isinstance(method.budget, Ratio):
        config["mask_ratio"] = method.budget.ratio
    ledger.remarks.append(f"colours with mean {image.mean} and deviation {image.std}, which no config says")
    return Exported(ledger.result, config, ledger.remarks)


def _export_videos(ledger: Ledger, method: Method, video: Video) -> Exported:
    model = "VideoMAEForPreTraining"
    name, encoder, role, decoder, label, target = _parts(model, method, "qv")
    plain = replace(cast("Pixels", VIDEOMAE.tasks["video"].target), normalise=target.normalise)
    _refuse(
        model,
        {
            "it has no class token": encoder.global_tokens > 0,
            "its decoder's projection has no bias": decoder.embed_bias,
            "its target is raw or normalised per channel": target.normalise == "token" or target != plain,
        },
    )
    move_affine(ledger, "videomae.embeddings.patch_embeddings.projection", f"trunk.embedders.{name}.proj")
    _split_blocks(ledger, "videomae.encoder.layer.", "trunk.encoder.blocks.", encoder.depth, encoder.bias)
    if encoder.final_norm:
        move_affine(ledger, "videomae.layernorm", "trunk.encoder.norm")
    ledger.move("mask_token", f"decoders.{role}.mask_token")
    ledger.move("encoder_to_decoder.weight", f"decoders.{role}.embed.weight")
    _split_blocks(ledger, "decoder.decoder_layers.", f"decoders.{role}.blocks.", decoder.depth, decoder.bias)
    move_affine(ledger, "decoder.norm", f"decoders.{role}.norm")
    move_affine(ledger, "decoder.head", f"decoders.{role}.heads.{label}")
    config = _shared_config(encoder, decoder, video.patch) | {
        "architectures": [model],
        "model_type": "videomae",
        "image_size": video.size,
        "num_frames": video.frames,
        "tubelet_size": video.tubelet,
        "qv_bias": encoder.bias == "qv",
        "use_mean_pooling": not encoder.final_norm,
        "norm_pix_loss": target.normalise == "channel",
    }
    if decoder.eps != LAST_EPS:
        ledger.remarks.append(
            f"transformers fixes the eps of the decoder's last norm at {LAST_EPS:g}, here it is {decoder.eps:g}: "
            "predictions differ a little, latents do not"
        )
    return Exported(ledger.result, config, ledger.remarks)


def _split_blocks(ledger: Ledger, new: str, old: str, depth: int, bias: Bias) -> None:
    """Blocks with queries, keys and values apart, under the names of the published files."""
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for block in range(depth):
        here, there = f"{new}{block}.", f"{old}{block}."
        for ours, theirs in names.items():
            move_affine(ledger, f"{here}{theirs}", f"{there}{ours}")
        attention = f"{here}attention.attention."
        parts = ("query", "key", "value")
        ledger.split([f"{attention}{part}.weight" for part in parts], f"{there}attn.qkv.weight")
        if bias == "qkv":
            ledger.split([f"{attention}{part}.bias" for part in parts], f"{there}attn.qkv.bias")
        if bias == "qv":
            for part in "qv":
                ledger.move(f"{attention}{part}_bias", f"{there}attn.{part}_bias")
