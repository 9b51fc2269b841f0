"""VideoMAE at toy sizes for tests: recipes, batches, and weights from the reference file and from transformers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from mmim.layers.patches import grid_coords, to_patches
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Batch, Split, Tokens
from modalities.video import Video
from recipes.videomae import VIDEOMAE

REFERENCE = Path(__file__).parent / "reference"


@dataclass(frozen=True, kw_only=True)
class NormalisedVideo(Video):
    """Takes clips that are normalised already, as reference files hold them."""

    def tokenize(self, raw: Tensor) -> Tokens:
        patch = (self.tubelet, self.patch, self.patch)
        grid = tuple(s // p for s, p in zip(raw.shape[2:], patch, strict=True))
        return Tokens(to_patches(raw, patch), grid_coords(grid), grid=grid)


def toy(
    video: type[Video] = Video,
    *,
    frames=4,
    size=32,
    patch=8,
    width=48,
    depth=3,
    heads=4,
    decoder=(32, 2, 2),
    ratio=0.75,
    **overrides,
):
    """The VideoMAE recipe at a size that runs in milliseconds."""
    recipe = replace(VIDEOMAE, modalities={"video": video(frames=frames, size=size, patch=patch, stride=1)}, size="")
    decoder_width, decoder_depth, decoder_heads = decoder
    return apply(
        recipe,
        {
            "encoder.width": width,
            "encoder.depth": depth,
            "encoder.heads": heads,
            "decoders.video.width": decoder_width,
            "decoders.video.depth": decoder_depth,
            "decoders.video.heads": decoder_heads,
            "budget.ratio": ratio,
            "precision": "fp32",
            **overrides,
        },
    )


def batch_of(clips: Tensor, keys: Tensor | None = None, present: Tensor | None = None) -> Batch:
    """A batch of clips."""
    b = clips.shape[0]
    ids = torch.arange(b)
    return Batch(
        {"main": {"video": clips}},
        {"video": torch.ones(b, dtype=torch.bool) if present is None else present},
        ids,
        ids if keys is None else keys,
        torch.tensor(0),
    )


def random_clips(b: int, frames: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Clips of noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, 3, frames, size, size), generator=generator, dtype=torch.uint8)


@contextmanager
def float64() -> Iterator[None]:
    """Tokenise in float64, as a model in float64 needs."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def fresh_accelerate() -> Iterator[None]:
    """Forget accelerate's settings before and after: it keeps the first precision for as long as the process lives."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def linear_dtypes() -> Iterator[set[torch.dtype]]:
    """The precisions in which the linear layers of any model compute meanwhile."""
    seen: set[torch.dtype] = set()

    def look(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, torch.nn.Linear):
            seen.add(output.dtype)

    handle = register_module_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def redraw(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew, norms, biases and tokens too: at their usual start many are zero and hide faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.9 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 and "token" not in name else 0.1
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


@dataclass(frozen=True)
class Reference:
    """Numbers that somebody else's VideoMAE made, and our model's configuration and weights for them."""

    recipe: object
    weights: dict[str, Tensor]
    clip: Tensor
    mask: Tensor
    out: dict[str, Tensor]


def official_to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names (MCG-NJU/VideoMAE) to ours."""
    prefixes = {
        "encoder.patch_embed.": "trunk.embedders.video.",
        "encoder_to_decoder.": "decoders.video.embed.",
        "encoder.": "trunk.encoder.",
        "decoder.head.": "decoders.video.heads.video.",
        "decoder.": "decoders.video.",
        "mask_token": "decoders.video.mask_token",
    }
    renamed = {}
    for name, tensor in state.items():
        old, new = next((old, new) for old, new in prefixes.items() if name.startswith(old))
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def official() -> Reference:
    """`videomae.safetensors`: the official class at toy size."""
    with safe_open(REFERENCE / "videomae.safetensors", "pt") as file:
        config = json.loads(file.metadata()["constructor"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    recipe = toy(
        NormalisedVideo,
        frames=16,
        size=config["img_size"],
        patch=config["patch_size"],
        width=config["encoder_embed_dim"],
        depth=config["encoder_depth"],
        heads=config["encoder_num_heads"],
        decoder=(config["decoder_embed_dim"], config["decoder_depth"], config["decoder_num_heads"]),
    )
    state = {name.removeprefix("state/"): tensor for name, tensor in tensors.items() if name.startswith("state/")}
    out = {name.removeprefix("out/"): tensor for name, tensor in tensors.items() if name.startswith("out/")}
    return Reference(recipe, official_to_ours(state), tensors["input/clip"], tensors["mask/mask"], out)


def split_of(mask: Tensor) -> dict[str, Split]:
    """Splits in token order from a mask (True: hidden) with equal numbers in all rows."""
    order = torch.argsort(mask.long(), dim=1, stable=True)
    kept = int((~mask[0]).sum())
    return {"video": Split(order[:, :kept], order[:, kept:])}


def ours(model: MaskedModel, clip: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What our model makes of a clip: latents, prediction, target and loss."""
    batch, splits = batch_of(clip), split_of(mask)
    step = Step(model, batch, splits)
    term = model(batch, splits)["reconstruction/video"]
    found = {"latent": step.latents().values, "pred": step.prediction("video"), "target": step.target("video")}
    return {name: value.detach() for name, value in {**found, "loss": term.total / term.count}.items()}


def build(reference: Reference, dtype: torch.dtype) -> MaskedModel:
    """Our model with the reference's weights, every key of them."""
    model = MaskedModel(reference.recipe)
    model.load_state_dict(reference.weights, strict=True)
    return model.to(dtype).eval()


def errors(reference: Reference, found: dict[str, Tensor]) -> dict[str, float]:
    """Worst error of each output, relative above 1."""
    return {
        name: float(((found[name] - reference.out[name]).abs() / reference.out[name].abs().clamp(min=1)).max())
        for name in ("latent", "pred", "target", "loss")
    }
