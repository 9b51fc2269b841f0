"""A method in a few lines, for a person."""

import dataclasses
from typing import Any

from mmim.model import Method
from mmim.parts import Part, name_of

SIZES = {"width", "depth", "depths", "heads", "size", "frames", "patch"}
"""Fields that are said even at their default."""
FEW = 2  # fields of a part so small that all are said


def brief(value: Any) -> str:
    """A part as its name, its sizes, and what is not at its default: `random`, `swin(width=128, ...)`."""
    if not isinstance(value, Part):
        return repr(value)
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    said = [
        f"{field.name}={brief(getattr(value, field.name))}"
        for field in fields
        if len(fields) <= FEW or field.name in SIZES or getattr(value, field.name) != field.default
    ]
    return f"{name_of(type(value))}({', '.join(said)})" if said else name_of(type(value))


def lines(method: Method) -> list[str]:
    """A method, one line for each of its parts."""
    rows = [f"modality   {name}: {brief(part)}" for name, part in method.modalities.items()]
    rows += [f"masking    {name}: {brief(part)}" for name, part in method.masking.items()]
    rows += [f"corruption {name}: {brief(part)}" for name, part in method.corruption.items()]
    rows += [f"budget     {brief(method.budget)}", f"encoder    {brief(method.encoder)}"]
    rows += [f"decoder    {name}: {brief(part)}" for name, part in method.decoders.items()]
    rows += [f"task       {name}: {brief(task.target)} of {task.modality}" for name, task in method.tasks.items()]
    return rows
