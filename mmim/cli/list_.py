"""`mmim list`."""

import inspect
import sys
from importlib.metadata import EntryPoint
from typing import Any

from rich.table import Table
from rich.text import Text

from mmim import command
from mmim.interop.converter import EXPORTERS, IMPORTERS, entries
from mmim.parts import AXES, GROUPS

TITLES = {
    "modality": "modalities",
    "masking": "maskings",
    "budget": "budgets",
    "corruption": "corruptions",
    "target": "targets",
    "encoder": "encoders",
    "decoder": "decoders",
    "term": "terms of the loss",
    "optimiser": "optimisers",
    "schedule": "schedules",
}


def list_() -> None:
    """Say what is installed: every part a recipe may name, the recipes, and the formats of import and export."""
    groups = {TITLES.get(axis, axis): GROUPS[axis] for axis in AXES}
    groups |= {"recipes": "mmim.recipes", "importers (--from)": IMPORTERS, "exporters (--to)": EXPORTERS}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for title, group in groups.items():
        table.add_row(Text(title, style="bold"), "")
        for name, entry in entries(group).items():
            table.add_row(Text(f"  {name}"), Text(about(entry)))
        if not entries(group):
            table.add_row("  none", "")
    command.console().print(table)


def about(entry: EntryPoint) -> str:
    """One line on what an entry point names, even where it can't be imported."""
    try:
        found = entry.load()
    except (
        Exception
    ) as error:  # a stranger's module may raise anything, and the rest of the list is wanted all the same
        reason = " ".join(str(error).split())
        return f"can't be imported: {type(error).__name__}: {reason}"
    return _first_line(found, entry.module)


def _first_line(found: Any, module: str) -> str:
    """The `about` of a converter, the docstring of a class, or that of the module which holds a recipe."""
    said = getattr(found, "about", None)
    if not isinstance(said, str):
        said = inspect.getdoc(found if inspect.isclass(found) else sys.modules[module]) or ""
    return next((line.strip() for line in said.splitlines() if line.strip()), "")
