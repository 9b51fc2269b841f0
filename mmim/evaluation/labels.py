"""From a label table and sample ids to labels of rows, and which rows are the test."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from mmim.data.sample import stem_of
from mmim.draw import stable_hash
from mmim.errors import DataError, OptionError
from mmim.evaluation.tables import LabelTable


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of the samples that have all of those asked for.

    rows:      their positions in the sample ids
    values:    label name -> one class per row
    test:      True where the row is a test row, False where it may train
    left_out:  how many samples the table does not name, or leaves without one of the labels
    """

    rows: Int64[np.ndarray, " n"]
    values: dict[str, list[str]]
    test: Bool[np.ndarray, " n"]
    left_out: int


def find_labels(
    table: LabelTable, ids: Sequence[str], names: Sequence[str], split: str | None = None, root: Path | None = None
) -> Labels:
    """The labels `names` of the samples `ids`, split into training and test rows.

    A row of the table belongs to the sample with the same id; else to one with the id without suffix, on either side.

    Args:
        table: what `read_table` gives.
        ids: sample ids, paths relative to their source.
        names: the labels, columns of the table.
        split: `COLUMN=VALUE`: rows with that value are the test. Without it a quarter is, by a hash of the id without
            suffix: no sample changes sides when others come or go, and the files of one scene stay together.
        root: the folder that the ids are relative to; with it, paths may also be absolute or relative to the table.

    Raises:
        OptionError: an unknown column, a split that isn't `COLUMN=VALUE` or whose value is nowhere.
        DataError: no sample is in the table, one is there twice and contradicts itself, a side of the split is empty, a
            label can't be learned (`check_classes`).
    """
    found = find_cells(table, ids, names, split, root)
    test = found.test
    if split is None:
        test = np.array([stable_hash("held out", stem_of(ids[i])) % 4 == 0 for i in found.rows])
    for name in names:
        check_classes(name, found.values[name], test)
    return replace(found, test=test)


def find_cells(
    table: LabelTable, ids: Sequence[str], names: Sequence[str], split: str | None = None, root: Path | None = None
) -> Labels:
    """The cells of the columns `names` of the samples `ids`, as `find_labels` finds them, whatever they hold.

    Without a split all rows are test rows.

    Raises:
        OptionError: an unknown column, a split that isn't `COLUMN=VALUE` or whose value is nowhere.
        DataError: no sample is in the table, or one is there twice and contradicts itself.
    """
    column, value = _parse_split(split)
    asked = [*names, column] if column is not None else list(names)
    _check_columns(table, asked)
    at = _match(table, ids, asked, root)
    rows = [i for i, row in enumerate(at) if row >= 0 and all(table.columns[name][row] for name in names)]
    if not rows:
        raise DataError(
            f"No sample has all labels {', '.join(names)}: their cells in {table.path} are empty. Fill them."
        )
    values = {name: [table.columns[name][at[i]] for i in rows] for name in names}
    if column is None:
        test = np.ones(len(rows), dtype=bool)
    else:
        test = _split_by(table, column, value, [table.columns[column][at[i]] for i in rows])
    return Labels(np.array(rows, dtype=np.int64), values, test, len(ids) - len(rows))


def check_classes(name: str, values: Sequence[str], test: Bool[np.ndarray, " n"]) -> None:
    """Whether the label can be learned from its training rows and measured on its test rows.

    Raises:
        DataError: it has one class, a class with one row, an empty side, one class in training, or unseen classes only.
    """
    counts = Counter(values)
    if len(counts) < 2:
        raise DataError(
            f"Label {name!r} has {len(counts)} class in {len(values)} rows ({_some(list(counts))}), so there is "
            f"nothing to tell apart. Choose a label that varies."
        )
    single = sorted(value for value, count in counts.items() if count < 2)
    if single:
        raise DataError(
            f"Label {name!r} has {len(single)} of {len(counts)} classes with fewer than 2 rows ({_some(single)}), and "
            f"one row can't both train and test. Choose another label, join these classes, or leave their rows out."
        )
    num_test = int(test.sum())
    if num_test in (0, len(test)):
        raise DataError(
            f"All {len(test)} rows with label {name!r} are on the {'test' if num_test else 'training'} side. Give more "
            f"samples, or choose the test rows by a column: --split COLUMN=VALUE."
        )
    seen = {value for value, held in zip(values, test, strict=True) if not held}
    if len(seen) < 2 or seen.isdisjoint(value for value, held in zip(values, test, strict=True) if held):
        raise DataError(
            f"Label {name!r} can't be learned from this split: its training rows have {len(seen)} of {len(counts)} "
            f"classes ({_some(sorted(seen))}). Choose another --split COLUMN=VALUE, one that goes across the classes."
        )


def _parse_split(split: str | None) -> tuple[str | None, str]:
    if split is None:
        return None, ""
    column, equals, value = split.partition("=")
    if not (column and equals and value):
        raise OptionError(f"Can't split by {split!r}: write --split COLUMN=VALUE, for example --split fold=4.")
    return column, value


def _check_columns(table: LabelTable, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in table.columns]
    if unknown:
        raise OptionError(
            f"No column {_some(unknown)} in {table.path}. It has: {', '.join(table.columns) or 'no labels at all'}. "
            f"Choose one of these."
        )


def _split_by(table: LabelTable, column: str, value: str, cells: list[str]) -> Bool[np.ndarray, " n"]:
    test = np.array([cell == value for cell in cells])
    if not test.any():
        raise OptionError(
            f"No test rows: column {column!r} of {table.path} is never {value!r} for these samples. "
            f"It has: {_some(sorted(set(cells)))}."
        )
    return test


def _match(table: LabelTable, ids: Sequence[str], names: Sequence[str], root: Path | None) -> list[int]:
    """The row of the table for each sample, -1 where there is none."""
    full: dict[str, int] = {}
    stems: dict[str, int] = {}
    for row, written in enumerate(table.keys):
        for key in _readings(written, table.path.parent, root):
            _enter(full, key, row, table, names)
    wanted = set(ids)
    for key, row in full.items():
        if stem_of(key) in wanted:
            _enter(stems, stem_of(key), row, table, names)
    found = [full.get(one, full.get(stem_of(one), stems.get(one, -1))) for one in ids]
    if not any(row >= 0 for row in found) and table.rows:
        return _match(replace(table, keys=table.rows, rows=()), ids, names, root)
    if not any(row >= 0 for row in found):
        raise DataError(
            f"None of the {len(ids)} samples is in {table.path}: its {len(table.keys)} rows are named like "
            f"{_some(table.keys, 1)}, the samples like {_some(ids, 1)}. Name the rows by the path relative to the data "
            f"folder, with or without suffix."
        )
    return found


def _readings(written: str, folder: Path, root: Path | None) -> set[str]:
    """The sample ids that a table in `folder` may mean: the path as it is written, and as it is seen from `root`."""
    readings = {os.path.normpath(written)}
    if root is not None:
        path = Path(os.path.abspath(folder / written))
        if path.is_relative_to(os.path.abspath(root)):
            readings.add(path.relative_to(os.path.abspath(root)).as_posix())
    return readings


def _enter(index: dict[str, int], key: str, row: int, table: LabelTable, names: Sequence[str]) -> None:
    first = index.setdefault(key, row)
    for name in names:
        if table.columns[name][first] != table.columns[name][row]:
            raise DataError(
                f"{table.path} names {key!r} twice, with {name} {table.columns[name][first]!r} and "
                f"{table.columns[name][row]!r}. Keep one of the rows."
            )


def _some(items: Sequence[str], count: int = 5) -> str:
    return ", ".join(repr(item) for item in items[:count]) + (", ..." if len(items) > count > 1 else "")
