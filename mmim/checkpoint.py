"""Checkpoints: safetensors for numbers, JSON for everything else, never a pickle.

`checkpoints/step-N/` holds `model.safetensors`, `config.json` and copies of the files that modalities need, such as a
tokenizer (all that `load` needs, and all that users exchange), and beside them `training.safetensors` and
`training.json` (what resuming needs). A checkpoint appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmim.config import from_plain, to_plain, with_fields
from mmim.errors import CheckpointError
from mmim.modality import Modality
from mmim.model import MaskedModel, Method

FORMAT = 1


def save(
    folder: Path,
    model: MaskedModel,
    step: int,
    training: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder/step-N`, through a temporary neighbour and a rename. `source`: whose weights were imported."""
    final, partial = folder / f"step-{step}", folder / f".step-{step}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    method = to_plain(_with_copies(model.method, partial))
    config = {"format": FORMAT, "mmim": version("mmim"), "torch": torch.__version__, "step": step, "method": method}
    if source is not None:
        config["source"] = dict(source)
    _write_tensors(partial / "model.safetensors", model.state_dict())
    _write_text(partial / "config.json", json.dumps(config, indent=1))
    if training is not None:
        _write_tensors(partial / "training.safetensors", training)
        _write_text(partial / "training.json", json.dumps(dict(state or {})))
    replaced = folder / f".step-{step}.replaced"
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    _sync(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    numbers = (path.name.removeprefix("step-") for path in folder.iterdir() if path.name.startswith("step-"))
    return sorted(int(number) for number in numbers if number.isdigit())


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints (0 keeps all), and what killed processes left half-written."""
    for left_over in folder.glob(".step-*"):
        shutil.rmtree(left_over)
    for step in steps(folder)[:-keep] if keep else []:
        shutil.rmtree(folder / f"step-{step}")


def find(path: Path) -> Path:
    """The checkpoint folder meant by a checkpoint, a run folder (its newest) or a `checkpoints` folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "config.json").is_file():
        return path
    for folder in (path / "checkpoints", path):
        if there := steps(folder):
            return folder / f"step-{there[-1]}"
    raise CheckpointError(
        f"There is no checkpoint at {path}. Give a run folder, or one of its checkpoints/step-N folders."
    )


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint.

    Raises:
        CheckpointError: it is missing, not JSON, or of a newer format.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / 'config.json'} can't be read: {error}.") from error
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {config.get('format')}; this mmim reads {FORMAT}. "
            "Install the mmim that wrote it."
        )
    return config


def read_method(folder: Path) -> Method:
    """The method of a checkpoint; files that its modalities need are those beside it.

    Raises:
        CheckpointError: its configuration can't be read, or names files that are not beside it.
        OptionError: it names a part that is not installed.
    """
    method: Method = from_plain(Method, read_config(folder)["method"])
    modalities = {}
    for name, modality in method.modalities.items():
        paths = folders_of(modality)
        for path in paths.values():
            if len(path.parts) != 1 or path.name == "..":
                raise CheckpointError(f"{folder / 'config.json'} names {path}, which is not beside it. Don't trust it.")
            if not (folder / path).is_dir():
                raise CheckpointError(f"{folder / path} is missing, and the checkpoint needs it. Use an earlier one.")
        modalities[name] = with_fields(modality, {field: folder / path for field, path in paths.items()})
    return replace(method, modalities=modalities)


def _with_copies(method: Method, folder: Path) -> Method:
    """The method alone, without what a recipe adds, and with the files of its modalities copied into the checkpoint."""
    fields = {name: getattr(method, name) for name in Method.__dataclass_fields__}
    for name, modality in method.modalities.items():
        copies = {field: Path(f"{name}-{field.replace('_', '-')}") for field in folders_of(modality)}
        for field, copy in copies.items():
            write_content(content_of(modality, field), folder / copy)
        fields["modalities"] = {**fields["modalities"], name: with_fields(modality, copies)}
    return Method(**fields)


def folders_of(modality: Modality) -> dict[str, Path]:
    """The folders that a modality needs, by field."""
    paths = {field: getattr(modality, field) for field in modality.files}
    return {field: path for field, path in paths.items() if path is not None}


def content_of(modality: Modality, field: str) -> dict[str, bytes]:
    """What the folder in a field holds, as far as it matters; nothing where it is gone."""
    files = (folders_of(modality)[field] / name for name in modality.files[field])
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def write_content(content: Mapping[str, bytes], folder: Path) -> None:
    """The same files in another folder."""
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
        _sync(folder / name)


def load(path: str | Path, device: str | torch.device = "cpu") -> MaskedModel:
    """The model of a checkpoint or a run folder, in evaluation mode.

    Raises:
        CheckpointError: there is none, it is damaged, or it fits another version of a part.
        OptionError: it names a part that is not installed.
    """
    folder = find(Path(path))
    model = MaskedModel(read_method(folder))
    restore(model, read_tensors(folder / "model.safetensors"), folder)
    return model.to(device).eval()


def restore(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load a state dict, every key and shape of it.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    wrong = [f"{name} missing" for name in own if name not in tensors] + [
        f"{name} unknown" for name in tensors if name not in own
    ]
    wrong += [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{where} does not fit its own configuration: {', '.join(wrong[:5])} ({len(wrong)} in all)."
        )
    model.load_state_dict(dict(tensors))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} can't be read: {error}. Use an earlier checkpoint.") from error


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of the run besides numbers: its data, the loss scaler, the files left out.

    Raises:
        CheckpointError: it is missing or not JSON; such a checkpoint can be loaded, but not trained on.
    """
    try:
        state: dict[str, Any] = json.loads((path / "training.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / 'training.json'} can't be read: {error}. Use an earlier checkpoint.") from error
    return state


def digest(path: Path) -> str:
    """The SHA-256 of a checkpoint's weights, which names it in what is made from it."""
    with (path / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under the names of the parameters it belongs to."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave.

    Raises:
        CheckpointError: it is of another model.
    """
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter, _, key = name.partition("|")
        if parameter not in parameters:
            raise CheckpointError(f"The optimiser's state is of a parameter {parameter} that this model does not have.")
        owner = parameters[parameter]
        optimiser.state[owner][key] = value.to(owner.device) if value.ndim else value


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    _sync(file)


def _write_text(file: Path, text: str) -> None:
    file.write_text(text)
    _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
