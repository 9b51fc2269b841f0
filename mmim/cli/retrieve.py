"""`mmim retrieve`."""

import json
from collections.abc import Sequence
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
from mmim.evaluation.label_table import label_table, root_of
from mmim.evaluation.labels import find_cells
from mmim.evaluation.retrieval_report import as_dict, compare, parse_pairs, table
from mmim.evaluation.tables import LabelTable


def retrieve(
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
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
        data: folder of files, list, manifest or tars; its index.csv, or itself, has the columns. Several as NAME=PATH.
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
    _check_table(group, split, labels, data)
    console = command.console()
    if checkpoint is not None:
        trained = checkpoints.load(checkpoint)
        wanted = parse_pairs(pairs, chosen(trained.method.modalities, use))
        made = compute(source, trained, list(dict.fromkeys(chain(*wanted))), seed, console)
        inline = {name: modality.inline for name, modality in trained.method.modalities.items()}
        ids, sets, raw = made.ids, {"trained": made.trained, "untrained": made.untrained}, made.raw
    else:
        assert embeddings is not None
        ids, vectors = read_parquet(embeddings)
        inline = dict.fromkeys(vectors, True)
        wanted = parse_pairs(pairs, [name for name in vectors if name != "joint"])
        sets, raw = {embeddings.stem: vectors}, {}
    labelled = label_table(labels, data, inline) if group or split is not None else None
    rows, test, groups = _cells(ids, group, split, labelled, root_of(data))
    if len(rows) < len(ids):
        console.print(f"{len(ids) - len(rows)} of {len(ids)} samples have no label and were left out")
    sets = {name: {one: part[rows] for one, part in by.items()} for name, by in sets.items()}
    found, reasons = compare(sets, {one: part[rows] for one, part in raw.items()}, wanted, test, groups, seed)
    console.print(table(found))
    for names, reason in reasons.items():
        console.print(f"no {names}: {reason}", markup=False, highlight=False)
    if json_out is not None:
        json_out.write_text(json.dumps(as_dict(found) | {"left_out": reasons}, indent=1) + "\n")


def _check_table(group: tuple[str, ...], split: str | None, labels: Path | None, data: Sequence[str]) -> None:
    """Refuse a label table that nothing is looked up in, and a lookup without one."""
    if not group and split is None:
        if labels is not None:
            raise OptionError("--labels without --group or --split: there is nothing to look up, leave it out.")
    elif labels is None and not data:
        raise OptionError("--group and --split need --data (its index.csv has the columns) or --labels.")


def _cells(
    ids: list[str], group: tuple[str, ...], split: str | None, labelled: LabelTable | None, root: Path | None
) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Which samples count, which of them are queries and candidates, and their groups."""
    if labelled is None:
        return np.arange(len(ids)), np.ones(len(ids), dtype=bool), None
    found = find_cells(labelled, ids, group, split, root)
    cells = zip(*found.values.values(), strict=True)
    return found.rows, found.test, [json.dumps(one) for one in cells] if group else None
