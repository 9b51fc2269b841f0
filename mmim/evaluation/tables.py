"""Label tables as people have them: an `index.csv`, a manifest, a text list; read into one form."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmim.data.manifest import row_ids
from mmim.data.table_read import csv_records, json_records, parquet_records, read_lines
from mmim.errors import DataError

KEYS = ("id", "file", "path")
_WORDS = re.compile(r"(.*?\.\w+)[\s,]+([^\W\d].*)")  # `clip.mp4 playing guitar`, a label in words
_FRAMES = re.compile(r"(.*\.\w+)\s+-?\d+")  # `clip.mp4 0` of a line `clip.mp4 0 -1`


@dataclass(frozen=True, slots=True)
class LabelTable:
    """`keys[i]` names a sample as the file at `path` writes it; `columns[name][i]` is its cell, or empty.

    rows: names of the lines themselves, where a file may hold samples and labels alike.
    """

    path: Path
    keys: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    rows: tuple[str, ...] = ()


def read_table(path: Path, inline: Mapping[str, bool] | None = None) -> LabelTable:
    """Read the labels at `path`, all cells as text.

    inline: the modalities of the samples, and whether a manifest's cells may hold their data: in a table with a column
    of one of them, the rows have the names of the manifest's samples.

    A folder             its `index.csv`
    index.csv            quoted; the first column names the file, or is its stem without suffix
    *.csv *.tsv *.jsonl  a manifest; the first of the columns id, file, path names the file. Lines of a .jsonl may be
    *.parquet            the samples themselves: they are `file.jsonl#0`, `file.jsonl#1` ..., without blank lines
    any other, and a .csv without a comma in its first line
                         a list as VideoMAE reads: `path label` per line, or `path frames label`; its column is `label`

    Raises:
        DataError: no such file, not UTF-8, no rows, ragged rows, no column that names the file.
    """
    path = path / "index.csv" if path.is_dir() else path
    if path.suffix == ".parquet" and path.is_file():
        return _from_records(path, parquet_records(path), inline)
    lines = _lines(path)
    if path.suffix == ".jsonl":
        return _from_json(path, list(json_records(path, lines)), inline)
    if path.suffix == ".tsv":
        return _from_records(path, list(csv_records(path, lines, "\t")), inline)
    if path.suffix == ".csv" and "," in lines[0]:
        return _from_records(path, list(csv_records(path, lines, ",")), inline)
    return _from_list(path, lines)


def joined(tables: Mapping[str, LabelTable]) -> LabelTable:
    """The tables of several sources as one, whose keys have the names of the sources before them.

    A column that a table lacks is empty there.
    """
    names = dict.fromkeys(name for table in tables.values() for name in table.columns)
    keys: list[str] = []
    columns: dict[str, list[str]] = {name: [] for name in names}
    for source, table in tables.items():
        for written in filter(None, (table.keys, table.rows)):  # a line may go by two names
            keys += [f"{source}/{key}" for key in written]
            for name, column in columns.items():
                column += table.columns.get(name, [""] * len(table.keys))
    path = next(iter(tables.values())).path
    return LabelTable(path, tuple(keys), {name: tuple(column) for name, column in columns.items()})


def _lines(path: Path) -> list[str]:
    """The lines of a table in text."""
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        raise DataError(f"No label table at {path}: give a folder with an index.csv, a manifest, or a list.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Can't read the label table {path}: {error}. It must be a text file in UTF-8.") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"The label table {path} is empty: write one row per sample.")
    return lines


def _from_json(path: Path, records: list[dict[str, Any]], inline: Mapping[str, bool] | None) -> LabelTable:
    """Records that name their file, or are samples themselves, or both."""
    rows = tuple(f"{path.name}#{row}" for row in range(len(records)))
    if any(name in record for record in records for name in KEYS):
        return replace(_from_records(path, records, inline), rows=rows)
    if inline and any(name in record for record in records for name in inline):
        return replace(_from_records(path, records, inline), rows=rows)
    return _from_records(path, [{"id": name, **record} for name, record in zip(rows, records, strict=True)], None)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _from_records(path: Path, records: Sequence[Mapping[str, Any]], inline: Mapping[str, bool] | None) -> LabelTable:
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise DataError(f"The label table {path} has a header and no rows: write one row per sample.")
    if inline and path.name != "index.csv" and any(name in names for name in inline):
        return LabelTable(path, tuple(row_ids(path, records, inline)), _columns(records, names))
    key = names[0] if path.name == "index.csv" else next((name for name in KEYS if name in names), None)
    if key is None:
        raise DataError(
            f"No column of {path} names the file: it has {', '.join(names)}. Call one of them {' or '.join(KEYS)}, "
            f"or call the table index.csv, whose first column names the file."
        )
    columns = _columns(records, [name for name in names if name != key])
    return LabelTable(path, tuple(_cell(record.get(key)) for record in records), columns)


def _columns(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(_cell(record.get(name)) for record in records) for name in names}


def _from_list(path: Path, lines: list[str]) -> LabelTable:
    keys, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if words := _WORDS.fullmatch(line.strip()):
            name, label = words.groups()
        if not name:
            raise DataError(f"{path}, line {number}: {label!r} has no label. Write `path label` on each line.")
        frames = _FRAMES.fullmatch(name)
        keys.append(frames[1] if frames else name.strip())
        labels.append(label)
    return LabelTable(path, tuple(keys), {"label": tuple(labels)})
