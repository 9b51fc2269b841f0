"""Manifests: tables with a column for each modality, whose cells name its file of each sample.

    id,image,text          cells are paths relative to the manifest, or absolute; an empty one: the sample lacks it
    a,a.jpg,a red ball     a modality that allows it (`Modality.inline`) may find the data themselves in its cell, which
    b,b.jpg,texts/b.txt    is a path only if there is such a file
    c,,a blue box          other columns are labels

Samples are called by the column `id`; without one like the first modality's file without its suffix, and like their row
(`manifest.csv#17`) where no cell is a path. Rows of one name get `#` and their number behind it.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmim.data.sample import Sample
from mmim.data.table_read import DELIMITERS, TABLES, read_records
from mmim.errors import DataError, EmptyDataError
from mmim.modality import Inline, Modality, Source

FIRST = 1000
"""Lines of a .jsonl whose fields tell a manifest from a file of samples."""
LONGEST = 4096
"""Characters of a path, at most; a longer cell is not looked for among the files."""


def is_manifest(file: Path, modalities: Mapping[str, Modality]) -> bool:
    """Whether a table has a column of a modality; one that a modality reads as samples needs another's column.

    Raises:
        DataError: a table that can't be anything else has none.
    """
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        return False
    columns = _columns(file)
    mine = [name for name in modalities if name in columns and suffix not in modalities[name].suffixes]
    if not mine and suffix == ".parquet":
        raise DataError(no_column(file, columns, modalities))
    return bool(mine)


def no_column(file: Path, columns: Sequence[str], modalities: Mapping[str, Modality]) -> str:
    """Why a table is no manifest."""
    return (
        f"No column of {file} is called like a modality ({', '.join(modalities)}): it has "
        f"{', '.join(columns[:8]) or 'none'}. Rename those that name files."
    )


def in_manifest(file: Path, modalities: Mapping[str, Modality]) -> list[Sample]:
    """The samples of a manifest in the order of its rows; those without any modality are left out.

    A file that is missing is met when it is to be read, unless all are.

    Raises:
        DataError: it can't be read, a cell is no path, or none of its files is there.
    """
    records = read_records(file)
    rows = [_sources(file, number, record, modalities) for number, record in enumerate(records)]
    ids = row_ids(file, records, {name: modality.inline for name, modality in modalities.items()})
    samples = [Sample(id, sources, id) for id, sources in zip(ids, rows, strict=True) if sources]
    if not samples:
        raise EmptyDataError(f"{file} has {len(records)} rows and none with a cell for {', '.join(modalities)}.")
    paths = [source.path for sample in samples for source in sample.sources.values()]
    if not any(os.path.exists(path) for path in paths):
        raise DataError(
            f"None of the {len(paths)} files that {file} names is there; the first is {paths[0]}. "
            f"Write paths relative to the folder of the manifest, or absolute ones."
        )
    return samples


def row_ids(file: Path, records: Sequence[Mapping[str, Any]], inline: Mapping[str, bool]) -> list[str]:
    """What the samples of a manifest's rows are called.

    inline: whether cells may hold the data themselves, of each modality in order.
    """
    ids = [_id(file, number, record, inline) for number, record in enumerate(records)]
    count = Counter(ids)
    return [id if count[id] == 1 else f"{id}#{number}" for number, id in enumerate(ids)]


def _id(file: Path, number: int, record: Mapping[str, Any], inline: Mapping[str, bool]) -> str:
    if record.get("id") not in (None, ""):
        return str(record["id"])
    for name, may_be_data in inline.items():
        cell = record.get(name)
        if isinstance(cell, str) and cell and not (may_be_data and not _is_path(file, cell)):
            return os.path.splitext(os.path.normpath(cell))[0]
    return f"{file.name}#{number}"


def _is_path(file: Path, cell: str) -> bool:
    return len(cell) <= LONGEST and "\0" not in cell and os.path.isfile(file.parent / cell)


def _sources(
    file: Path, number: int, record: Mapping[str, Any], modalities: Mapping[str, Modality]
) -> dict[str, Source]:
    """Where the modalities of a row lie."""
    found = {}
    for name, modality in modalities.items():
        cell = record.get(name)
        if cell is None or cell == "":
            continue
        if not isinstance(cell, str) or "\0" in cell:
            kind = type(cell).__name__ if not isinstance(cell, str) else "string with a zero byte"
            raise DataError(f"{file}, row {number}: the cell of {name} is a {kind}, where a path should be.")
        if modality.inline and not _is_path(file, cell):
            stored = Inline(f"{file.name}#{number}{modality.suffix}", cell)
            found[name] = Source(file, any_row=True, stored=stored)
        else:
            found[name] = Source(file.parent / cell, any_row=True)
    return found


def _columns(file: Path) -> list[str]:
    """The names of a table's columns; none where it can't be told."""
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            return list(pq.read_schema(file).names)
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if suffix in DELIMITERS:
                return next(csv.reader(lines, delimiter=DELIMITERS[suffix]), [])
            return list(_fields(islice(lines, FIRST)))
    except (OSError, pa.ArrowException, csv.Error, ValueError):
        return []


def _fields(lines: Iterator[str]) -> dict[str, None]:
    """The fields of objects in lines, in the order in which they come."""
    found: dict[str, None] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        found |= dict.fromkeys(record if isinstance(record, dict) else ())
    return found
