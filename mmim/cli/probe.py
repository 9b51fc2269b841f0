"""`mmim probe`."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.vectors import Sets, Source, compute
from mmim.embed import read_parquet
from mmim.errors import OptionError
from mmim.evaluation.label_table import label_table, root_of
from mmim.evaluation.labels import find_labels
from mmim.evaluation.report import as_dict, compare_present, table


def probe(
    label: tuple[str, ...],
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    checkpoint: Path | None = None,
    embeddings: Path | None = None,
    labels: Path | None = None,
    split: str | None = None,
    use: tuple[str, ...] = (),
    seed: int = 0,
    batch: int | None = None,
    workers: int | None = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    json_out: Path | None = None,
) -> None:
    """How well embeddings tell labels: kNN and linear probe, with 95 % intervals.

    From a checkpoint the trained encoder is compared with the same encoder untrained and with plain features of the
    raw data; from an embeddings file its columns are compared with each other. Where samples lack some of several
    modalities, each table compares sets of vectors on the samples that have them.

    Args:
        label: columns of the label table.
        data: folder of files, list, manifest or tars; its index.csv, or itself, has the labels. Several as NAME=PATH.
        checkpoint: run folder, or one of its checkpoints.
        embeddings: Parquet file of `mmim embed`, in place of checkpoint and files.
        labels: label table (csv, tsv, jsonl, `path label` lines), or the folder of an index.csv; default: --data.
        split: COLUMN=VALUE, the rows to test on; default: a quarter, by a hash of the id.
        use: modalities to read and encode, with --checkpoint (default: all).
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
    console = command.console()
    if labels is None and not data:
        raise OptionError("Give --data (its index.csv has the labels) or --labels.")
    source.check()
    if checkpoint is not None:
        trained = checkpoints.load(checkpoint)
        ids, vectors = _named(compute(source, trained, use, seed, console))
        inline = {name: modality.inline for name, modality in trained.method.modalities.items()}
    else:
        assert embeddings is not None
        ids, read = read_parquet(embeddings)
        inline = dict.fromkeys(read, True)
        vectors = {name: part for name, part in read.items() if name == "joint" or not _same(part, read["joint"])}
    found = find_labels(label_table(labels, data, inline), ids, label, split, root_of(data))
    if found.left_out:
        console.print(f"{found.left_out} of {len(ids)} samples have no label and were left out")
    features = {name: part[found.rows] for name, part in vectors.items()}
    tables, reasons = compare_present(features, found.values, found.test, seed)
    for rows in tables:
        console.print(table(rows))
    for names, reason in reasons.items():
        console.print(f"no table of {names}: {reason}", markup=False, highlight=False)
    if json_out is not None:
        every = [row for rows in tables for row in rows]
        json_out.write_text(json.dumps(as_dict(every) | {"no_table": reasons}, indent=1) + "\n")


def _named(sets: Sets) -> tuple[list[str], dict[str, np.ndarray]]:
    """The joint vectors first, then what each modality has alone; of one modality alone that would be the same."""
    found = {"trained": sets.trained["joint"], "untrained": sets.untrained["joint"]}
    for name, features in sets.raw.items():
        if len(sets.raw) > 1:
            found |= {f"trained {name}": sets.trained[name], f"untrained {name}": sets.untrained[name]}
        found[f"raw {name}"] = features
    return sets.ids, found


def _same(part: np.ndarray, joint: np.ndarray) -> bool:
    """Whether a column is a copy of `joint`, as that of one modality alone is."""
    return np.array_equal(part, joint)
