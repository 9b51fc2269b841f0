"""`mmim retrieve`."""

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.vectors import Source, compute
from mmim.embed import chosen, read_parquet
from mmim.errors import OptionError
from mmim.evaluation.labels import find_cells
from mmim.evaluation.retrieval_report import as_dict, compare, parse_pairs, table
from mmim.evaluation.tables import read_table


def retrieve(
    data: Path | None = None,
    checkpoint: Path | None = None,
    embeddings: Path | None = None,
    pairs: tuple[str, ...] = (),
    group: tuple[str, ...] = (),
    labels: Path | None = None,
    split: str | None = None,
    use: tuple[str, ...] = (),
    seed: int = 0,
    batch: int | None = None,
    workers: int | None = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    json_out: Path | None = None,
) -> None:
    """How well one modality of a sample finds another: R@1, R@5, R@10 and median rank, with 95 % intervals.

    Each modality is embedded alone, and all samples that have both are ranked by cosine, in both directions, once the
    mean vector of each modality is subtracted. From a
    checkpoint the trained encoder is compared with the same encoder untrained and, with --split, with a floor:
    canonical correlation of plain features of the raw data, fitted on the other rows.

    Args:
        data: folder of files, or a text file with a path per line; its index.csv has the columns.
        checkpoint: run folder, or one of its checkpoints.
        embeddings: Parquet file of `mmim embed`, in place of checkpoint and files.
        pairs: FIRST:SECOND, modalities to compare (default: every pair).
        group: columns of the label table; a candidate that agrees with the query in all of them is right.
        labels: label table (csv, tsv, jsonl, `path label` lines), or the folder of an index.csv; default: --data.
        split: COLUMN=VALUE, the rows that are queries and candidates; default: all.
        use: modalities to read and encode, with --checkpoint (default: those in --pairs, or all).
        seed: of the untrained encoder and of the intervals.
        batch: samples per forward pass, with --checkpoint (default 32).
        workers: processes that read files, with --checkpoint (default 1).
        settings: NAME.FIELD=VALUE, read more or finer than in training, with --checkpoint.
        json_out: also write the table as JSON.
    """
    source = Source(
        checkpoint=checkpoint,
        data=data,
        embeddings=embeddings,
        use=use,
        settings=settings,
        batch=batch,
        workers=workers,
        json_out=json_out,
    )
    source.check()
    table_at = _table_at(group, split, labels, data)
    console = command.console()
    if checkpoint is not None:
        trained = checkpoints.load(checkpoint)
        wanted = parse_pairs(pairs, chosen(trained.method.modalities, use))
        made = compute(source, trained, list(dict.fromkeys(chain(*wanted))), seed, console)
        ids, sets, raw = made.ids, {"trained": made.trained, "untrained": made.untrained}, made.raw
    else:
        assert embeddings is not None
        ids, vectors = read_parquet(embeddings)
        wanted = parse_pairs(pairs, [name for name in vectors if name != "joint"])
        sets, raw = {embeddings.stem: vectors}, {}
    rows, test, groups = _cells(ids, group, split, table_at, data)
    if len(rows) < len(ids):
        console.print(f"{len(ids) - len(rows)} of {len(ids)} samples have no label and were left out")
    sets = {name: {one: part[rows] for one, part in by.items()} for name, by in sets.items()}
    found, reasons = compare(sets, {one: part[rows] for one, part in raw.items()}, wanted, test, groups, seed)
    console.print(table(found))
    for names, reason in reasons.items():
        console.print(f"no {names}: {reason}", markup=False, highlight=False)
    if json_out is not None:
        json_out.write_text(json.dumps(as_dict(found) | {"left_out": reasons}, indent=1) + "\n")


def _table_at(group: tuple[str, ...], split: str | None, labels: Path | None, data: Path | None) -> Path | None:
    """Where the label table lies, where one is asked for."""
    if not group and split is None:
        if labels is not None:
            raise OptionError("--labels without --group or --split: there is nothing to look up, leave it out.")
        return None
    if labels is None and data is None:
        raise OptionError("--group and --split need --data (its index.csv has the columns) or --labels.")
    return labels or data


def _cells(
    ids: list[str], group: tuple[str, ...], split: str | None, table_at: Path | None, data: Path | None
) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Which samples count, which of them are queries and candidates, and their groups."""
    if table_at is None:
        return np.arange(len(ids)), np.ones(len(ids), dtype=bool), None
    found = find_cells(read_table(table_at), ids, group, split, data if data is not None and data.is_dir() else None)
    cells = zip(*found.values.values(), strict=True)
    return found.rows, found.test, [json.dumps(one) for one in cells] if group else None
