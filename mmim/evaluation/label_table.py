"""Where a command finds the labels of the samples that `--data` names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmim.data.union import parse_data
from mmim.errors import DataError
from mmim.evaluation.tables import LabelTable, joined, read_table


def label_table(labels: Path | None, data: Sequence[str], inline: Mapping[str, bool]) -> LabelTable:
    """The label table, or those of all data that have one.

    inline: by column of a manifest, whether its cells hold data themselves, so that they are no paths.

    Raises:
        DataError: there is none.
    """
    places = parse_data(data)
    if labels is not None:
        its_own = labels.resolve() in {path.resolve() for path in places.values()}
        return read_table(labels, inline if its_own else None)
    if "" in places:
        return read_table(places[""], inline)
    tables = {name: read_table(path, inline) for name, path in places.items() if _may_have_labels(path)}
    if not tables:
        raise DataError(f"None of {', '.join(places)} has labels: give one of the folders an index.csv, or --labels.")
    return joined(tables)


def root_of(data: Sequence[str]) -> Path | None:
    """The folder that ids are relative to, where there is one."""
    unnamed = parse_data(data).get("")
    return unnamed if unnamed is not None and unnamed.is_dir() else None


def _may_have_labels(path: Path) -> bool:
    return (path / "index.csv").is_file() if path.is_dir() else path.is_file() and path.suffix.lower() != ".tar"
