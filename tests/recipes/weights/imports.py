"""Importing the reference files as users do, and running what comes out on their normalised inputs."""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

import mmim
from mmim.interop.converter import Imported, Options, import_weights, importer, save_imported
from mmim.interop.files import read_weights
from mmim.layers.patches import grid_coords, to_patches
from mmim.model import MaskedModel, Step
from mmim.records import Batch, Split, Tokens

REFERENCE = Path(__file__).parents[2] / "reference"


@dataclass(frozen=True)
class Case:
    """A reference file: the official state dict, inputs and outputs."""

    state: dict[str, Tensor]
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def case(name: str) -> Case:
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["constructor"])
    state = {key.removeprefix("state/"): tensor for key, tensor in tensors.items() if key.startswith("state/")}
    return Case(state, tensors, config)


def write(file: Path, state: dict[str, Tensor], wrapper: str = "model", **settings: object) -> Path:
    """A checkpoint as official code writes it, with the run's arguments and an optimiser beside the weights."""
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    args = argparse.Namespace(lr=np.float64(1e-3), **settings)
    torch.save({wrapper: state, "optimizer": optimiser, "epoch": 7, "args": args}, file)
    return file


def imported(path: Path, format: str, drop: tuple[str, ...] = (), **options: object) -> Imported:
    own = {name: options.pop(name) for name in importer(format).settings if name in options}
    return import_weights(format, read_weights(path), Options(options, own), drop)


def loaded(made: Imported, folder: Path) -> MaskedModel:
    """What `mmim.load` gives of an import, in float64."""
    save_imported(made, folder)
    return mmim.load(folder).double()


def take_normalised(model: MaskedModel) -> None:
    """Let every modality take data that are normalised already, as reference files hold them."""
    modalities = {}
    for name, part in model.method.modalities.items():

        def tokenize(self: Any, raw: Tensor) -> Tokens:
            values = to_patches(raw, self.piece[1:])
            grid = tuple(extent // step for extent, step in zip(raw.shape[2:], self.piece[1:], strict=True))
            return Tokens(values, grid_coords(grid), grid=grid)

        kind = dataclasses.dataclass(frozen=True, kw_only=True)(
            type(f"Normalised{type(part).__name__}", (type(part),), {"tokenize": tokenize})
        )
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        modalities[name] = kind(**fields)
    model.method = dataclasses.replace(model.method, modalities=modalities)


def run(model: MaskedModel, raw: Tensor, split: Split) -> Step:
    """One pass over normalised data of the model's only modality."""
    take_normalised(model)
    (name,) = model.method.modalities
    ids = torch.arange(len(raw))
    batch = Batch({"main": {name: raw}}, {name: torch.ones(len(raw), dtype=torch.bool)}, ids, ids, torch.tensor(0))
    return Step(model, batch, {name: split})


def split_of(hidden: Tensor) -> Split:
    """A split in token order; hidden `[b n]` bool, with as many in each row."""
    order = torch.argsort(hidden.long(), dim=1, stable=True)
    kept = int((~hidden[0]).sum())
    return Split(order[:, :kept], order[:, kept:])


def at(values: Tensor, ids: Tensor) -> Tensor:
    """Rows of each sample."""
    return values.gather(1, ids[..., None].expand(*ids.shape, values.shape[-1]))


def off(found: Tensor, expected: Tensor) -> float:
    """Worst error, relative above 1."""
    return float(((found.detach() - expected).abs() / expected.abs().clamp(min=1)).max())
