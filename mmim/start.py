"""Starting from the weights of a checkpoint, also with other modalities than it knows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmim.checkpoint import content_of, find, folders_of, read_method, read_tensors
from mmim.config import to_plain
from mmim.errors import CheckpointError, OptionError
from mmim.modality import Modality
from mmim.model import MaskedModel, Method
from mmim.using import using


@dataclass(frozen=True, eq=False)
class Start:
    """What a model takes over from a checkpoint.

    tensors     that it takes over, by name
    fresh       names of its own tensors that the checkpoint lacks
    left        names of the checkpoint's tensors that belong to modalities which the model does not have
    modalities  that both know
    """

    tensors: dict[str, Tensor]
    fresh: tuple[str, ...]
    left: tuple[str, ...]
    modalities: tuple[str, ...]

    def frozen(self, parts: Sequence[str]) -> list[str]:
        """The names of tensors from the checkpoint that belong to parts of the model (trunk, decoders.joint).

        Raises:
            OptionError: a part has none.
        """
        parts = [part for words in parts for part in words.split(",")]
        for part in parts:
            if not any(_belongs(name, [part]) for name in self.tensors):
                there = sorted({".".join(name.split(".")[:depth]) for name in self.tensors for depth in (1, 2)})
                raise OptionError(f"--freeze {part} names no weights from --init; there are {', '.join(there)}.")
        return [name for name in self.tensors if _belongs(name, parts)]


def _belongs(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def start_from(model: MaskedModel, path: Path, *, trunk_only: bool = False) -> Start:
    """Put a checkpoint's weights into a model whose trunk is the same; what else the checkpoint lacks stays fresh.

    Raises:
        CheckpointError, OptionError: as `check_start`.
    """
    start = check_start(model, path, trunk_only=trunk_only)
    model.load_state_dict({**model.state_dict(), **start.tensors})
    return start


def check_start(model: MaskedModel, path: Path, *, trunk_only: bool = False) -> Start:
    """See what a model can take over from a checkpoint.

    The function must be the one that the weights are for, and only the view and what acts in training alone may differ.
    Modalities may come and go: every tensor of the checkpoint must find its place (with `trunk_only`: of its trunk),
    and the whole trunk must get one, but for what belongs to modalities that only one of the two has. A model without
    memory (on "meta") will do.

    Raises:
        CheckpointError: there is none; tensors without a place, with another shape, or missing in the trunk.
        OptionError: a part that both have differs in another field, or they have no modality in common.
    """
    if path.is_file():
        raise CheckpointError(f"--init {path} is a file: import it first with `mmim import`, or name a run folder.")
    there, here = read_method(find(path)), model.method
    both = [name for name in there.modalities if name in here.modalities]
    if not both:
        raise OptionError(
            f"--init {path} knows {', '.join(there.modalities)}, and this run has {', '.join(here.modalities)}: "
            "keep one of its modalities."
        )
    changed = _changed(there, here, trunk_only)
    if changed:
        rest = (
            ""
            if trunk_only or not changed[-1].startswith("decoders.")
            else ", or take its encoder alone with --init-trunk-only"
        )
        raise OptionError(
            f"--init {path} is another model: {'; '.join(changed)}. Set these options to its values{rest}."
        )
    return _fitting(model, there, both, path, trunk_only)


def _changed(there: Method, here: Method, trunk_only: bool) -> list[str]:
    """What differs in the parts that two methods both have, as `encoder.heads is 12 there and 6 here`."""
    pairs: list[tuple[str, Any, Any, tuple[str, ...]]] = [
        (f"modalities.{name}", part, here.modalities[name], (*part.view, *part.training_view))
        for name, part in there.modalities.items()
        if name in here.modalities
    ]
    pairs.append(("encoder", there.encoder, here.encoder, ("drop_path", "init")))
    if not trunk_only:
        both = [name for name in there.decoders if name in here.decoders]
        pairs += [(f"decoders.{name}", there.decoders[name], here.decoders[name], ("drop_path",)) for name in both]
    changed = []
    for path, first, second, free in pairs:
        before, now = to_plain(first), to_plain(second)
        if isinstance(first, Modality) and isinstance(second, Modality):
            free = (*free, *_alike(first, second))
        changed += [
            f"{path}.{field} is {before.get(field)} there and {now.get(field)} here"
            for field in {**before, **now}
            if before.get(field) != now.get(field) and field not in free
        ]
    return changed


def _alike(first: Modality, second: Modality) -> list[str]:
    """The fields of two modalities that hold other paths of equal files."""
    return [
        field
        for field in folders_of(first)
        if field in folders_of(second) and content_of(first, field) == content_of(second, field)
    ]


def _fitting(model: MaskedModel, there: Method, both: Sequence[str], path: Path, trunk_only: bool) -> Start:
    own, tensors = model.state_dict(), read_tensors(find(path) / "model.safetensors")
    for name, owner in there.shared_embedders.items():
        if name in both and name not in model.method.shared_embedders:  # what it shared is its own now
            its, shared = f"trunk.embedders.{name}.", f"trunk.embedders.{owner}."
            tensors |= {its + key.removeprefix(shared): tensors[key] for key in list(tensors) if key.startswith(shared)}
    gone, added = _only_in(there, both), _only_in(model.method, both)
    left = tuple(name for name in tensors if name in gone and name not in own)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left}
    if trunk_only:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("trunk.")}
    trunk = [name for name in own if name.startswith("trunk.")]
    wrong = [f"{name} has no place here" for name in tensors if name not in own]
    wrong += [f"{name} is missing there" for name in trunk if name not in tensors and name not in added]
    wrong += [
        f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(
            f"--init {path} does not fit this recipe: {', '.join(wrong[:5])} ({len(wrong)} in all). "
            f"Set the sizes to its own{'' if trunk_only else ', or take its encoder alone with --init-trunk-only'}."
        )
    return Start(tensors, tuple(name for name in own if name not in tensors), left, tuple(both))


def _only_in(method: Method, both: Sequence[str]) -> Collection[str]:
    """The names of a method's tensors that it would not have with these of its modalities alone."""
    if len(both) == len(method.modalities):
        return ()
    with torch.device("meta"):
        whole, part = (MaskedModel(each).state_dict() for each in (method, using(method, both)))
    return whole.keys() - part.keys()
