"""Label tables as people have them: an `index.csv`, a manifest, a text list; read into one form."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmim.errors import DataError

KEYS = ("id", "file", "path")
BLANK = " \t\n\r\v\f"
"""What a blank line holds: the same as for those who read its samples."""
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


def read_table(path: Path) -> LabelTable:
    """Read the labels at `path`, all cells as text.

    A folder             its `index.csv`
    index.csv            quoted; the first column names the file, or is its stem without suffix
    *.csv *.tsv *.jsonl  a manifest; the first of the columns id, file, path names the file. Lines of a .jsonl may be
                         the samples themselves: they are `file.jsonl#0`, `file.jsonl#1` ..., without blank lines
    any other, and a .csv without a comma in its first line
                         a list as VideoMAE reads: `path label` per line, or `path frames label`; its column is `label`

    Raises:
        DataError: no such file, not UTF-8, no rows, ragged rows, no column that names the file.
    """
    path = path / "index.csv" if path.is_dir() else path
    try:
        with path.open(encoding="utf-8-sig", newline="\n" if path.suffix == ".jsonl" else "") as file:
            lines = list(file)  # str.splitlines would also break at U+2028
    except FileNotFoundError:
        raise DataError(f"No label table at {path}: give a folder with an index.csv, a manifest, or a list.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Can't read the label table {path}: {error}. It must be a text file in UTF-8.") from error
    lines = lines if any(line.strip() for line in lines) else []
    if not lines:
        raise DataError(f"The label table {path} is empty: write one row per sample.")
    if path.suffix == ".jsonl":
        return _from_json(path, list(_json_records(path, lines)))
    if path.suffix == ".tsv":
        return _from_records(path, list(_csv_records(path, lines, "\t")))
    if path.suffix == ".csv" and "," in lines[0]:
        return _from_records(path, list(_csv_records(path, lines, ",")))
    return _from_list(path, lines)


def _csv_records(path: Path, lines: list[str], delimiter: str) -> Iterator[dict[str, str]]:
    rows = csv.reader(lines, delimiter=delimiter)
    names = next(rows)
    if len(set(names)) < len(names):
        raise DataError(f"The header of {path} names a column twice ({', '.join(names)}): rename one.")
    for row in rows:
        if row and len(row) != len(names):
            raise DataError(
                f"{path}, line {rows.line_num}: {len(row)} cells, but the header has {len(names)} ({', '.join(names)})."
                f" Put cells that hold {delimiter!r} in double quotes."
            )
        if row:
            yield dict(zip(names, row, strict=True))


def _json_records(path: Path, lines: list[str]) -> Iterator[dict[str, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip(BLANK):
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}). Write one object per line.") from error
        if not isinstance(record, dict):
            raise DataError(
                f"{path}, line {number}: {line.strip()[:40]!r} is not an object. Write one object per line."
            )
        yield {name: _cell(value) for name, value in record.items()}


def _from_json(path: Path, records: list[dict[str, str]]) -> LabelTable:
    """Records that name their file, or are samples themselves, or both."""
    rows = tuple(f"{path.name}#{row}" for row in range(len(records)))
    if any(name in record for record in records for name in KEYS):
        return replace(_from_records(path, records), rows=rows)
    return _from_records(path, [{"id": name, **record} for name, record in zip(rows, records, strict=True)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _from_records(path: Path, records: list[dict[str, str]]) -> LabelTable:
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise DataError(f"The label table {path} has a header and no rows: write one row per sample.")
    key = names[0] if path.name == "index.csv" else next((name for name in KEYS if name in names), None)
    if key is None:
        raise DataError(
            f"No column of {path} names the file: it has {', '.join(names)}. Call one of them {' or '.join(KEYS)}, "
            f"or call the table index.csv, whose first column names the file."
        )
    columns = {name: tuple(record.get(name, "") for record in records) for name in names if name != key}
    return LabelTable(path, tuple(record.get(key, "") for record in records), columns)


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
