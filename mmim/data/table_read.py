"""Tables as people have them, row by row: .csv and .tsv with a header, .jsonl with an object a line, .parquet."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmim.errors import DataError

BLANK = " \t\n\r\v\f"
"""What a blank line holds: the same as for those who read its samples."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".jsonl", ".parquet")
"""The suffixes of tables."""


def read_lines(path: Path) -> list[str]:
    """The lines of a table in text.

    Raises:
        OSError, UnicodeDecodeError: it can't be read, or is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="\n" if path.suffix.lower() == ".jsonl" else "") as file:
        return list(file)  # str.splitlines would also break at U+2028


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; cells of text tables are text, those of the others of any type, None where there is none.

    Raises:
        DataError: it can't be read, or a row does not fit the header.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_records(path)
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Can't read the table {path}: {error}. It must be a text file in UTF-8.") from error
    if suffix == ".jsonl":
        return list(json_records(path, lines))
    return list(csv_records(path, lines, DELIMITERS[suffix]))


def csv_records(path: Path, lines: list[str], delimiter: str) -> Iterator[dict[str, str]]:
    """The rows below a header.

    Raises:
        DataError: two columns of one name, a row with more or fewer cells than the header, or a broken quote.
    """
    rows = csv.reader(lines, delimiter=delimiter)
    names = next(rows, [])
    if len(set(names)) < len(names):
        raise DataError(f"The header of {path} names a column twice ({', '.join(names)}): rename one.")
    try:
        for row in rows:
            if row and len(row) != len(names):
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(row)} cells, but the header has {len(names)} "
                    f"({', '.join(names)}). Put cells that hold {delimiter!r} in double quotes."
                )
            if row:
                yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}. Look for a quote that does not end.") from error


def json_records(path: Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of lines that are not blank.

    Raises:
        DataError: a line holds something else.
    """
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
        yield record


def parquet_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        DataError: it is none, or damaged.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} can't be read as Parquet: {' '.join(str(error).split())[:160]}.") from error
    return rows
