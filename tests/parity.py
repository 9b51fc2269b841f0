"""Reference files of published systems, run through our importers and parts."""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmim.draw import Draw
from mmim.interop.converter import Options, import_weights
from mmim.interop.files import read_weights
from mmim.layers.patches import grid_coords, to_patches
from mmim.modality import Modality
from mmim.model import MaskedModel, Step
from mmim.records import Batch, Split, Tokens
from modalities.audio import Audio
from modalities.image import Image
from modalities.video import Video
from tests.videomae import float64

REFERENCE = Path(__file__).parent / "reference"
F64 = {"values": 2e-6, "targets": 2e-6, "losses": 2e-6}
F32 = {"values": 2e-5, "targets": 2e-4, "losses": 2e-5}  # tests/reference/README.md, "How to compare"
KINDS = {"target": "targets", "loss": "losses"}


class _Normalised:
    """Takes data that are normalised already, as reference files hold them."""

    def tokenize(self, raw: Tensor) -> Tokens:
        patch = self.piece[1:]
        grid = tuple(size // step for size, step in zip(raw.shape[2:], patch, strict=True))
        return Tokens(to_patches(raw, patch), grid_coords(grid), grid=grid)


@dataclass(frozen=True, kw_only=True)
class NormalisedImage(_Normalised, Image):
    """Pictures that are normalised already."""


@dataclass(frozen=True, kw_only=True)
class NormalisedAudio(_Normalised, Audio):
    """Spectrograms that are normalised already, `[b 1 time mel]`."""


@dataclass(frozen=True, kw_only=True)
class NormalisedVideo(_Normalised, Video):
    """Clips that are normalised already."""


NORMALISED = {Image: NormalisedImage, Audio: NormalisedAudio, Video: NormalisedVideo}


def normalised(modality: Modality) -> Modality:
    """The same modality for data that are normalised already; of a kind that is not among these, as it is."""
    if type(modality) not in NORMALISED:
        return modality
    values = {field.name: getattr(modality, field.name) for field in fields(modality)}
    return NORMALISED[type(modality)](**values)


@dataclass(frozen=True)
class File:
    """A reference file."""

    config: dict[str, Any]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """All tensors under a prefix."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def load(name: str) -> File:
    """A reference file by its name."""
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        config, settings = (json.loads(file.metadata()[part]) for part in ("constructor", "settings"))
        return File(config, settings, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def official_file(reference: File, folder: Path, **arguments: object) -> Path:
    """The weights as the official code writes them: with its arguments, in a .pth."""
    path = folder / "checkpoint.pth"
    torch.save({"model": reference.part("state/"), "epoch": 3, "args": Namespace(**arguments)}, path)
    return path


def imported(importer: str, reference: File, folder: Path, options: dict[str, Any], **arguments: object) -> MaskedModel:
    """Our model, by `mmim import`."""
    weights = read_weights(official_file(reference, folder, **arguments))
    model = import_weights(importer, weights, Options(options)).model
    modalities = {name: normalised(modality) for name, modality in model.method.modalities.items()}
    model.method = replace(model.method, modalities=modalities)
    return model


def batch_of(name: str, data: Tensor) -> Batch:
    """A batch of one modality."""
    return batch_of_several({name: data})


def batch_of_several(data: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Batch:
    """A batch of several modalities; present: who has which, all by default."""
    ids = torch.arange(len(next(iter(data.values()))))
    everybody = {name: torch.ones(len(ids), dtype=torch.bool) for name in data}
    return Batch({"main": data}, everybody | (present or {}), ids, ids, torch.tensor(0))


def split_of(hidden: Tensor) -> Split:
    """A split in token order from flags `[b n]`, True: hidden; the numbers may differ between samples."""
    order = torch.argsort(hidden.long(), dim=1, stable=True)
    kept = (~hidden).sum(dim=1, keepdim=True)
    place = torch.arange(hidden.shape[1])
    if (kept == kept[0]).all():
        return Split(order[:, : kept[0]], order[:, kept[0] :])
    return Split(order, order, place < kept, place >= kept)


def run(model: MaskedModel, name: str, data: Tensor, split: Split) -> tuple[Step, Tensor]:
    """A step of one modality, and its mean loss."""
    batch = batch_of(name, data)
    with torch.no_grad():
        term = model(batch, {name: split})[f"reconstruction/{name}"]
        return Step(model, batch, {name: split}), term.total / term.count


def split_by_noise(model: MaskedModel, name: str, noise: Tensor) -> Split:
    """The split that the model's budget cuts from the reference's noise."""
    n = noise.shape[1]
    made = Tokens(torch.zeros(len(noise), n, 1), grid_coords((n, 1)), grid=(n, 1))
    return model.method.budget.cut({name: noise}, {name: made}, Draw(torch.arange(len(noise))))[name]


def mae_errors(model: MaskedModel, reference: File, name: str, data: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """How far latents, predictions, targets and loss are from those of a reference in MAE's form."""
    with float64() if dtype == torch.float64 else torch.no_grad():
        split, model = split_by_noise(model, name, reference.tensors["mask/noise"]), model.to(dtype)
        step, loss = run(model, name, data.to(dtype), split)
        latents, rows = step.latents(), torch.arange(len(split.ids_masked))[:, None]
        expected = {
            "latent": reference.tensors["out/latent"],
            "loss": reference.tensors["out/loss"],
            **{part: reference.tensors[f"out/{part}"][rows, split.ids_masked] for part in ("pred", "target")},
        }
        assert latents.globals is not None
        found = {
            "latent": torch.cat([latents.globals, latents.values], dim=1),
            "pred": step.prediction(name),
            "target": step.target(name),
            "loss": loss,
        }
        return worst(found, expected)


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """The worst error of each output, relative above 1."""
    assert {name: part.shape for name, part in found.items()} == {name: expected[name].shape for name in found}
    return {
        name: float(((part.detach() - expected[name]).abs() / expected[name].abs().clamp(min=1)).max())
        for name, part in found.items()
    }


def beyond(errors: dict[str, float], allowed: dict[str, float]) -> dict[str, float]:
    """The errors that are not allowed."""
    return {name: e for name, e in errors.items() if not e <= allowed[KINDS.get(name, "values")]}


def tanh_gelu(block: nn.Module) -> None:
    """GELU's tanh approximation in place of the exact one."""
    mlp = block.mlp
    mlp.forward = lambda x: mlp.fc2(nn.functional.gelu(mlp.fc1(x), approximate="tanh"))


def shift(parameter: nn.Parameter) -> None:
    """Change one number by a hundredth."""
    with torch.no_grad():
        parameter.view(-1)[0] += 0.01


def one_place_on(positions: nn.Module) -> None:
    """Every token gets the position code of its neighbour."""
    positions.register_forward_hook(lambda module, inputs, codes: codes.roll(1, dims=1))


Mutation = Callable[[MaskedModel], object]
