"""`mmim probe`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from rich.console import Console

from mmim import checkpoint as checkpoints
from mmim import command
from mmim.cli.checks import check_checkpoint, check_numbers, check_output, told
from mmim.data.loader import Loaded
from mmim.data.sources import find_union
from mmim.data.union import parse_data
from mmim.embed import embed, read, read_as
from mmim.errors import DataError, OptionError
from mmim.evaluation.labels import find_labels
from mmim.evaluation.report import as_dict, compare, table
from mmim.evaluation.tables import LabelTable, joined, read_table
from mmim.model import MaskedModel


def probe(
    label: tuple[str, ...],
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    checkpoint: Path | None = None,
    embeddings: Path | None = None,
    labels: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    workers: int | None = None,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    json_out: Path | None = None,
) -> None:
    """How well embeddings tell labels: kNN and linear probe, with 95 % intervals.

    From a checkpoint the trained encoder is compared with the same encoder untrained and with plain features of the
    raw data; from an embeddings file its columns are compared with each other.

    Args:
        label: columns of the label table.
        data: folder of files, list, manifest or tars; its index.csv, or itself, has the labels. Several as NAME=PATH.
        checkpoint: run folder, or one of its checkpoints.
        embeddings: Parquet file of `mmim embed`, in place of checkpoint and files.
        labels: label table (csv, tsv, jsonl, parquet, `path label` lines), or the folder of an index.csv; default:
            --data. Of several --data it names samples as they are called, with the name of their data.
        split: COLUMN=VALUE, the rows to test on; default: a quarter, by a hash of the id.
        seed: of the untrained encoder and of the intervals.
        batch: samples per forward pass, with --checkpoint (default 32).
        workers: processes that read files, with --checkpoint (default 1).
        settings: NAME.FIELD=VALUE, read more or finer than in training, with --checkpoint.
        json_out: also write the table as JSON.
    """
    console = command.console()
    if labels is None and not data:
        raise OptionError("Give --data (its index.csv has the labels) or --labels.")
    if (checkpoint is None) == (embeddings is None):
        raise OptionError("Give one of --checkpoint and --embeddings.")
    numbers = 32 if batch is None else batch, 1 if workers is None else workers
    check_numbers(*numbers)
    if json_out is not None:
        check_output("json-out", json_out)
    if embeddings is not None:
        if unused := [
            f"--{name}"
            for name, value in (("batch", batch), ("workers", workers), ("set", settings or None))
            if value is not None
        ]:
            raise OptionError(f"{' and '.join(unused)} with --embeddings: there is nothing to compute, leave it out.")
        ids, vectors = read_embeddings(embeddings)
        inline = dict.fromkeys(vectors, True)
    else:
        assert checkpoint is not None
        if not data:
            raise OptionError("--checkpoint needs --data, the files to embed.")
        check_checkpoint(checkpoint)
        ids, vectors = _embed(checkpoint, data, seed, *numbers, settings, console)
        modalities = checkpoints.read_method(checkpoints.find(checkpoint)).modalities
        inline = {name: modality.inline for name, modality in modalities.items()}
    places = parse_data(data)
    unnamed = places.get("")
    root = unnamed if unnamed is not None and unnamed.is_dir() else None
    found = find_labels(_labels(labels, places, inline), ids, label, split, root)
    if found.left_out:
        console.print(f"{found.left_out} of {len(ids)} samples have no label and were left out")
    rows = compare({name: part[found.rows] for name, part in vectors.items()}, found.values, found.test, seed)
    console.print(table(rows))
    if json_out is not None:
        json_out.write_text(json.dumps(as_dict(rows), indent=1) + "\n")


def _labels(labels: Path | None, places: Mapping[str, Path], inline: Mapping[str, bool]) -> LabelTable:
    """The label table, or those of all data that have one.

    Raises:
        DataError: there is none.
    """
    if labels is not None:
        its_own = labels.resolve() in {path.resolve() for path in places.values()}
        return read_table(labels, inline if its_own else None)
    if "" in places:
        return read_table(places[""], inline)
    tables = {name: read_table(path, inline) for name, path in places.items() if _may_have_labels(path)}
    if not tables:
        raise DataError(f"None of {', '.join(places)} has labels: give one of the folders an index.csv, or --labels.")
    return joined(tables)


def _may_have_labels(path: Path) -> bool:
    return (path / "index.csv").is_file() if path.is_dir() else path.is_file() and path.suffix.lower() != ".tar"


def read_embeddings(file: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids and vectors of a file of `mmim embed`.

    Columns that some samples lack are left out, and so is a copy of `joint`.

    Raises:
        DataError: it is not such a file.
    """
    try:
        rows = pq.read_table(file)
        ids = rows["id"].to_pylist()
        lists = [name for name in rows.column_names if pa.types.is_fixed_size_list(rows.schema.field(name).type)]
        full = [name for name in lists if not rows[name].null_count]
        vectors = {name: np.stack(rows[name].to_numpy(zero_copy_only=False)) for name in full}
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{file} is not a file of `mmim embed`: {' '.join(str(error).split())}.") from error
    same = [name for name in vectors if name != "joint" and np.array_equal(vectors[name], vectors["joint"])]
    return ids, {name: part for name, part in vectors.items() if name not in same}


def _embed(
    checkpoint: Path,
    data: Sequence[str],
    seed: int,
    batch: int,
    workers: int,
    settings: tuple[str, ...],
    console: Console,
) -> tuple[list[str], dict[str, np.ndarray]]:
    trained = checkpoints.load(checkpoint)
    modalities = read_as(trained.method.modalities, settings)
    samples = told(find_union(data, modalities), console)
    torch.manual_seed(seed)
    untrained = MaskedModel(trained.method)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def batches() -> Iterator[Loaded]:
        return read(samples, modalities, batch=batch, workers=workers)

    ours = embed(trained, samples, batches(), device=device, features=True)
    for bad in ours.unreadable:
        console.print(f"left out {bad.id}: {bad.reason}", markup=False, highlight=False)
    theirs = embed(untrained, samples, batches(), device=device)
    raw = {f"raw {name}": part for name, part in ours.features.items()}
    return ours.ids, {"trained": ours.vectors["joint"], "untrained": theirs.vectors["joint"], **raw}
