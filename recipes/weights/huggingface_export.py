"""Our models as folders of transformers: ViTMAE and VideoMAE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch

from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.interop.converter import Exported, Exporter
from mmim.interop.keys import Ledger
from mmim.interop.vit import codes, move_affine
from mmim.layers.block import Bias
from mmim.masking.budget import Ratio
from mmim.model import Method
from mmim.targets.pixels import Pixels
from modalities.image import Image
from modalities.video import Video
from recipes.videomae import VIDEOMAE

LAST_EPS = 1e-5
"""Of the last norm of transformers' VideoMAE decoder, whatever its config says (official code: 1e-6)."""


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
