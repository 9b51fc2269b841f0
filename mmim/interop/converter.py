"""The contracts of an importer and an exporter, how they are found, and what surrounds their key maps."""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, ClassVar, get_origin

import yaml
from safetensors.torch import save_file
from torch import Tensor

from mmim import checkpoint
from mmim.config import from_plain
from mmim.errors import OptionError
from mmim.interop.files import Weights
from mmim.interop.keys import Ledger
from mmim.model import MaskedModel, Method

IMPORTERS, EXPORTERS = "mmim.importers", "mmim.exporters"


@dataclass(frozen=True)
class Setting:
    """An option of one format alone, given as `--set NAME=VALUE`."""

    kind: Any
    """The type of its values: bool, float, tuple[float, float], ..."""
    about: str
    """How a value is written, and what it says: `true (the table has a row for the class token)`."""


class Options:
    """What a person says of a file beyond the file. An option that nobody asks for is refused in the end."""

    def __init__(self, given: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> None:
        """given: the options of every format; own: those of this one, from `own_settings`."""
        self._given = {name: value for name, value in given.items() if value is not None and value is not False}
        self._own = dict(own or {})
        self._asked: set[str] = set()

    def get(self, name: str) -> Any:
        """The value of an option, or None."""
        self._asked.add(name)
        return self._own.get(name, self._given.get(name))

    def need(self, name: str, known: Any, what: str) -> Any:
        """The value of an option, or what is known without it.

        Raises:
            OptionError: neither; the message says what to give.
        """
        given = self.get(name)
        if given is None and known is None:
            raise OptionError(f"The file does not tell {what}: give --{name.replace('_', '-')}.")
        return known if given is None else given

    def close(self) -> None:
        """Refuse an option that has no use here.

        Raises:
            OptionError: there is one.
        """
        if idle := sorted({*self._given, *self._own} - self._asked):
            option = f"--set {idle[0]}" if idle[0] in self._own else f"--{idle[0].replace('_', '-')}"
            raise OptionError(f"{option} has no use here, since the file tells it or does not need it: leave it out.")


class Importer(ABC):
    """From one published format to a method and weights of ours. Extend it; the entry point gives its name."""

    about: ClassVar[str]
    """One line for `mmim list`."""
    settings: ClassVar[Mapping[str, Setting]] = {}
    """Options that this format has beside those of all; `convert` finds them among its options."""

    def spelling(self, name: str) -> str:
        """The name that `convert` asks for, of a tensor that the format writes in several ways."""
        return name

    @abstractmethod
    def convert(self, ledger: Ledger, weights: Weights, options: Options) -> Method:
        """Read the sizes off the file, put every tensor under our name into the ledger, and give the method.

        Raises:
            CheckpointError: it is not of this format.
            OptionError: something must be said that shapes don't tell.
        """


@dataclass(frozen=True, eq=False)
class Exported:
    """A model in another library's words: tensors, and the config.json of a folder (None: one file alone)."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    remarks: list[str] = field(default_factory=list)


class Exporter(ABC):
    """From our model to one published format."""

    about: ClassVar[str]
    """One line for `mmim list`."""

    @abstractmethod
    def convert(self, ledger: Ledger, method: Method) -> Exported:
        """Take every tensor of our state dict out of the ledger; `close` of it is called afterwards.

        Raises:
            OptionError: the method can't be said there; the message says why.
        """


@dataclass(frozen=True, eq=False)
class Imported:
    """What an import made: the model, what was left out by --drop, and what a person should know."""

    model: MaskedModel
    source: dict[str, Any]
    kept: int
    dropped: list[str]
    remarks: list[str]


@cache
def entries(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def importer(name: str) -> Importer:
    """The importer of that name.

    Raises:
        OptionError: there is none.
    """
    return _make(IMPORTERS, name, "--from", Importer)  # type: ignore[return-value, type-abstract]


def own_settings(name: str, written: Sequence[str]) -> dict[str, Any]:
    """The values of a format's own options from `NAME=VALUE`, with commas between the numbers of a list.

    Raises:
        OptionError: it has no such option, or not with this value; the message lists those that it has.
    """
    known, found = importer(name).settings, {}
    for setting in written:
        option, _, value = setting.partition("=")
        if option not in known:
            there = "; ".join(f"{option}={setting.about}" for option, setting in known.items()) or "none"
            raise OptionError(f"--set {setting}: {name} has no such option of its own; it has {there}.")
        try:
            plain = yaml.safe_load(f"[{value}]" if get_origin(known[option].kind) is tuple else value)
        except yaml.YAMLError as error:
            raise OptionError(f"--set {setting} can't be read: write {option}={known[option].about}.") from error
        found[option] = from_plain(known[option].kind, plain, f"--set {option}")
    return found


def exporter(name: str) -> Exporter:
    """The exporter of that name.

    Raises:
        OptionError: there is none.
    """
    return _make(EXPORTERS, name, "--to", Exporter)  # type: ignore[return-value, type-abstract]


def _make(group: str, name: str, option: str, kind: type) -> object:
    if name not in entries(group):
        raise OptionError(f"{option} {name!r} is unknown; there are {', '.join(entries(group)) or 'none'}.")
    found = entries(group)[name].load()()
    assert isinstance(found, kind), f"{entries(group)[name].value} is no {kind.__name__}"
    return found


def import_weights(name: str, weights: Weights, options: Options, drop: tuple[str, ...] = ()) -> Imported:
    """A model of ours from a foreign state dict, every key of which is used or dropped by name.

    Raises:
        CheckpointError: keys or shapes are not those of the format.
        OptionError: an option is missing, or has no use.
    """
    converter = importer(name)
    ledger = Ledger(weights.tensors, drop, converter.spelling)
    method = converter.convert(ledger, weights, options)
    options.close()
    ledger.close()
    model = MaskedModel(method)
    ledger.fit(model.state_dict(), f"the {name} model read off it")
    model.load_state_dict(ledger.result)
    remarks = [f"unwrapped {layer}" for layer in weights.about] + ledger.remarks
    source = {
        "format": name,
        "file": weights.path.absolute().name,  # as it was called: a cache's links lead to digests
        "sha256": weights.digest(),
        "mmim": version("mmim"),
        "dropped": ledger.dropped,
        "remarks": remarks,
    }
    kept = len(weights.tensors) - len(ledger.dropped)
    return Imported(model.eval(), source, kept, ledger.dropped, remarks)


def export_weights(name: str, model: MaskedModel, out: Path) -> Exported:
    """Write a model of ours as another library reads it, whole or not at all.

    Raises:
        OptionError: the method can't be said there, or the place is taken.
    """
    converter = exporter(name)
    ledger = Ledger(model.state_dict())
    made = converter.convert(ledger, model.method)
    ledger.close()
    _write(made, out)
    return made


def _write(made: Exported, out: Path) -> None:
    if out.exists():
        raise OptionError(f"--out {out} exists already: name a new one.")
    if made.config is None and out.suffix != ".safetensors":
        raise OptionError(f"--out {out} must end in .safetensors: this format is one file.")
    if made.config is not None and out.suffix:
        raise OptionError(f"--out {out} looks like a file, and this format is a folder: name a folder.")
    if not out.resolve().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.resolve().parent}. Make it first.")
    partial = out.resolve().parent / f".{out.name}.{os.getpid()}"
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in made.tensors.items()}
    try:
        if made.config is None:
            save_file(tensors, partial, metadata={"format": "pt"})
        else:
            partial.mkdir()
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            (partial / "config.json").write_text(json.dumps(made.config, indent=2, sort_keys=True) + "\n")
        partial.rename(out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def check_place(out: Path) -> Path:
    """Where the checkpoints of an import go.

    Raises:
        OptionError: there can't be a folder, or there are checkpoints already.
    """
    if out.is_file():
        raise OptionError(f"--out {out} is a file: name a folder.")
    if not out.resolve().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.resolve().parent}. Make it first.")
    folder = out / "checkpoints"
    if checkpoint.steps(folder):
        raise OptionError(f"--out {out}: {folder} has checkpoints already. Name another folder.")
    return folder


def save_imported(imported: Imported, out: Path) -> Path:
    """Write an import as checkpoint `out/checkpoints/step-0`.

    Raises:
        OptionError: as `check_place`.
    """
    return checkpoint.save(check_place(out), imported.model, 0, source=imported.source)
