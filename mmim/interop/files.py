"""Weight files as other code writes them: safetensors, torch.save, and folders of transformers.

Nothing in a file is ever run: of what a pickle may name, a fixed list is built and everything else refuses the file.
"""

import argparse
import hashlib
import json
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from mmim.errors import CheckpointError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_NUMBERS = "bBhHiIlLqQefd?"  # the kinds of NumPy number that a file's arguments may hold
_SCALAR: Any = np.float64(0).__reduce__()[0]


def _scalar(kind: np.dtype[Any], data: bytes) -> Any:
    """NumPy's `scalar` for plain numbers: of another kind it takes whatever memory the kind names."""
    if kind.kind not in "biuf" or len(data) != kind.itemsize:
        raise ValueError(f"a NumPy {kind} of {len(data)} bytes is no number")
    return _SCALAR(kind, data)


ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in _NUMBERS},
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (OrderedDict, "yacs.config.CfgNode"),
]
"""What a file may name besides tensors: the arguments of a run, as argparse, NumPy and yacs (SimMIM) keep them."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A foreign state dict.

    tensors   by the names that the file gives them, without the wrapper that `about` names
    about     what was unwrapped, in words
    config    the `config.json` of a folder of transformers or timm
    settings  the arguments of the run that wrote the file (its `args`), where it holds them
    path      what was read
    """

    tensors: Mapping[str, Tensor]
    about: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path()

    def digest(self) -> str:
        """The SHA-256 of the file, or of a folder's weight files one after another."""
        found = hashlib.sha256()
        for file in _parts(self.path) if self.path.is_dir() else [self.path]:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    found.update(block)
        return found.hexdigest()


def read_weights(path: Path, state: str | None = None) -> Weights:
    """The state dict of a file, or of a folder of transformers or timm.

    state: which of several state dicts in the file is meant; asked for only where there is a choice.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, wants to run something, or has no single reading.
    """
    about: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if path.is_dir():
        if state is not None:
            raise CheckpointError(f"{path} is a folder with one state dict: leave out --state.")
        tensors = _merged([_read_file(part) for part in _parts(path)], path)
        config = _json(path / "config.json")
    else:
        tensors, about, settings = _unwrap(_read_file(path), state, path)
    prefix = "module."
    if tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        about = (*about, f"the prefix {prefix!r} of every name")
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors. Give a file with a state dict.")
    if odd := [name for name, tensor in tensors.items() if not _is_plain(tensor)]:
        raise CheckpointError(
            f"{path}: {odd[0]!r} is sparse, or has more numbers than are stored. Save it as contiguous."
        )
    return Weights(tensors, about, config, settings, path)


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Give a weight file ({', '.join(SUFFIXES)}) or a folder.")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is no weight file by its name: rename it to one of {', '.join(SUFFIXES)}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} can't be read: {error}.") from error
    return _read_torch(path)


def _read_torch(path: Path) -> Any:
    try:
        with _allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats; what it refuses, it raises
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of a damaged file torch raises anything: IndexError, struct.error, AssertionError ...
        raise CheckpointError(f"{path} can't be read: {_reason(error)}") from error


@contextmanager
def _allowed() -> Iterator[None]:
    """Our list and no other: other packages may have lengthened torch's for the whole process."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(ALLOWED)  # type: ignore[arg-type]
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _reason(error: Exception) -> str:
    """One line for what torch says in paragraphs."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if named:
        return (
            f"it wants to build {named[1]}, which is no weight and could run code, so nothing of it was loaded. "
            "Save the state dict alone, as safetensors for one, where you trust the file."
        )
    if "TorchScript" in text or ".tar format" in text:
        kind = "a TorchScript archive" if "TorchScript" in text else "of torch's old tar format"
        return f"it is {kind}, which can't be read without running it. Save its state dict with today's torch."
    refused = re.search(r"WeightsUnpickler error:\s*([^\n]+)", text)
    line = refused[1] if refused else " ".join(text.split())[:200]
    return f"{line.strip().rstrip('.') or type(error).__name__}."


def _unwrap(held: Any, state: str | None, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """The state dict in what a file holds, wherever there is exactly one."""
    about: tuple[str, ...] = ()
    settings = _settings(held)
    while not _is_state(held):
        inside = {key: value for key, value in held.items() if _holds_state(value)} if isinstance(held, Mapping) else {}
        if state is not None and state not in inside:
            raise CheckpointError(f"{path} has no state dict --state {state!r}; it has {_listed(inside)}.")
        if state is None and len(inside) != 1:
            how = "Choose one with --state NAME." if inside else "Give a file with a dict of named tensors."
            raise CheckpointError(f"{path} holds {_listed(inside)} where one state dict was looked for. {how}")
        key = state if state is not None else next(iter(inside))
        beside = [str(other) for other in held if other != key]
        about = (*about, f"{key!r}" + (f" (beside it {', '.join(beside)})" if beside else ""))
        held, state = inside[key], None
    if state is not None:
        raise CheckpointError(f"{path} is itself a state dict: leave out --state {state}.")
    return dict(held), about, settings


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether each number of a tensor was in the file: a view of one number may claim any shape."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _holds_state(value: Any, depth: int = 4) -> bool:
    """A state dict, or a wrapper of one. An optimiser's state is keyed by numbers, so it is neither.

    depth: of wrappers, since a dict may hold itself.
    """
    if _is_state(value):
        return True
    named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return named and depth > 0 and any(_holds_state(item, depth - 1) for item in value.values())


def _listed(inside: Mapping[Any, Any]) -> str:
    return f"state dicts under {', '.join(map(repr, inside))}" if inside else "no state dict"


def _settings(held: Any) -> dict[str, Any]:
    args = held.get("args") if isinstance(held, Mapping) else None
    return dict(vars(args)) if isinstance(args, argparse.Namespace) else {}


def _parts(folder: Path) -> list[Path]:
    """The weight files of a folder."""
    name = next((name for name in FOLDER if (folder / name).is_file()), None)
    if name is None:
        raise CheckpointError(f"The folder {folder} has no weights: it needs one of {', '.join(FOLDER)}.")
    if not name.endswith(".json"):
        return [folder / name]
    index = _json(folder / name).get("weight_map")
    files = sorted(set(index.values())) if isinstance(index, Mapping) else []
    if not files or any(not isinstance(file, str) or Path(file).name != file for file in files):
        raise CheckpointError(f"{folder / name} names no files of its own folder in its weight_map.")
    return [folder / file for file in files]


def _merged(held: list[Any], folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part in held:
        if not _is_state(part):
            raise CheckpointError(f"A weight file of {folder} is no plain state dict.")
        if twice := sorted(set(tensors) & set(part)):
            raise CheckpointError(f"Two weight files of {folder} hold {twice[0]!r}.")
        tensors.update(part)
    return tensors


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} can't be read: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no JSON object.")
    return content
