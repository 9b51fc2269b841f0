"""A method with other modalities: some of its own, and others that it did not know."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from mmim.corruption.corruption import Corruption
from mmim.decoders.decoder import Decoder
from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.model import Method, Task
from mmim.parts import lookup

M = TypeVar("M", bound=Method)


def using(method: M, names: Sequence[str]) -> M:
    """The method with the modalities `names` alone: its own first, in its order, then installed ones as they are.

    What names a modality that is left out goes with it: its masking, corruption, tasks, their decoders, its part of the
    budget, its pairs, and a term without anything left. A modality that the method did not know brings its default
    masking and target. It gets the corruption that all others have, if they have the same, and the decoder that serves
    several of them, or one like their first under its own name.

    Raises:
        OptionError: no names, one twice, one that is not installed, or one that can't be made without arguments.
    """
    if not names:
        raise OptionError("--use names nothing: give modalities, such as --use one,other, or leave it out.")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise OptionError(f"--use names {twice[0]} twice: name it once.")
    kept = [name for name in method.modalities if name in names]
    fresh = {name: _installed(name) for name in names if name not in method.modalities}
    if not fresh and len(kept) == len(method.modalities):
        return method
    modalities = {name: method.modalities[name] for name in kept} | fresh
    shared = _shared_decoder(method)
    new_tasks = {
        name: Task(modality=name, decoder=shared or name, target=modality.target) for name, modality in fresh.items()
    }
    if taken := [name for name in new_tasks if name in method.tasks or (shared is None and name in method.decoders)]:
        raise OptionError(f"--use {taken[0]}: the recipe has a task or a decoder of that name for another modality.")
    tasks = {name: task for name, task in method.tasks.items() if task.modality in kept} | new_tasks
    lost = [name for name in method.tasks if name not in tasks]
    terms = {name: term.using(kept, list(fresh), lost) for name, term in method.objective.items()}
    changed: dict[str, Any] = {
        "modalities": modalities,
        "masking": {n: method.masking[n] for n in kept} | {n: part.masking for n, part in fresh.items()},
        "corruption": _corruption(method, kept, fresh),
        "budget": method.budget.using(kept, list(fresh)),
        "shared_embedders": {
            name: owner for name, owner in method.shared_embedders.items() if name in kept and owner in kept
        },
        "decoders": _decoders(method, tasks),
        "tasks": tasks,
        "objective": {name: term for name, term in terms.items() if term is not None},
    }
    return replace(method, **changed)


def _installed(name: str) -> Modality:
    kind = lookup("modality", name)
    try:
        return cast("Modality", kind())
    except TypeError as error:
        raise OptionError(f"--use {name} can't stand alone: {error}. Set it in a recipe file.") from error


def _shared_decoder(method: Method) -> str | None:
    """The first decoder that serves tasks of several modalities."""
    for name in method.decoders:
        if len({task.modality for task in method.tasks.values() if task.decoder == name}) > 1:
            return name
    return None


def _corruption(method: Method, kept: Sequence[str], fresh: Mapping[str, Modality]) -> dict[str, Corruption]:
    parts = [method.corruption.get(name) for name in method.modalities]
    common = parts[0] if all(part == parts[0] for part in parts) else None
    own = {name: part for name, part in method.corruption.items() if name in kept}
    return own if common is None else own | dict.fromkeys(fresh, common)


def _decoders(method: Method, tasks: Mapping[str, Task]) -> dict[str, Decoder]:
    """Those that a task uses; one that there was not is like the first. Their order is the same in every process."""
    first = next(iter(method.decoders.values()))
    asked = [task.decoder for task in tasks.values()]
    own = {name: part for name, part in method.decoders.items() if name in asked}
    return own | {name: first for name in asked if name not in own}
