"""From a model and files to embeddings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmim.config import from_plain, set_value, to_plain
from mmim.data.loader import Loaded, Unreadable, in_order, load
from mmim.data.sources import Sample
from mmim.errors import DataError, OptionError
from mmim.modality import Modality
from mmim.model import MaskedModel
from mmim.records import Batch

POOLING = "mean over all tokens of the encoder's output, nothing masked"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One row a sample of which one of the chosen modalities could be read.

    vectors["joint"] is the joint pass over those of the chosen that a sample has; vectors[modality] the pass over that
    one alone (NaN: absent).
    """

    ids: list[str]
    present: dict[str, Bool[np.ndarray, " n"]]
    vectors: dict[str, Float[np.ndarray, "n _"]]
    features: dict[str, Float[np.ndarray, "n _"]]
    """Plain features of the raw data, by modality, where asked for: the floor to beat (NaN: absent)."""
    unreadable: list[Unreadable]


def read_as(modalities: Mapping[str, Modality], settings: Sequence[str]) -> dict[str, Modality]:
    """Modalities that read another view than in training (more frames, a finer picture): `NAME.FIELD=VALUE`.

    The model stays as it was trained: its positions go on in time, and stretch where a picture is larger.

    Raises:
        OptionError: not NAME.FIELD=VALUE, no such field, or a value that it can't have.
    """
    plain = {name: to_plain(modality) for name, modality in modalities.items()}
    for setting in settings:
        path, equals, value = setting.partition("=")
        name, dot, field = path.partition(".")
        known = ", ".join(f"{n}.{f}" for n, modality in modalities.items() for f in modality.view)
        if not (equals and dot and field):
            raise OptionError(f"--set {setting} can't be read: write NAME.FIELD=VALUE, of one of {known}.")
        if name not in modalities or field not in modalities[name].view:
            raise OptionError(f"--set {setting}: {path} is nothing that reading could change; there are {known}.")
        plain[name][field] = set_value(setting, value, several=isinstance(plain[name][field], list))
    return {name: from_plain(Modality, fields, name) for name, fields in plain.items()}


def chosen(modalities: Mapping[str, Modality], use: Sequence[str]) -> tuple[str, ...]:
    """The modalities that `--use` names, apart or between commas, in the model's order; all where it names none.

    Raises:
        OptionError: a name that the model does not know, or one twice.
    """
    use = [name for words in use for name in words.split(",") if name]
    for name in use:
        if name not in modalities:
            raise OptionError(f"--use {name}: the model knows {', '.join(modalities)}. Choose of these.")
        if list(use).count(name) > 1:
            raise OptionError(f"--use names {name} twice: name it once.")
    return tuple(name for name in modalities if name in use or not use)


def having(samples: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """The samples that have one of the modalities `names`, with the sources of these alone.

    Raises:
        DataError: there is none.
    """
    sources = [{name: one.sources[name] for name in names if name in one.sources} for one in samples]
    kept = [replace(one, sources=own) for one, own in zip(samples, sources, strict=True) if own]
    if not kept:
        there = dict.fromkeys(name for one in samples for name in one.sources)
        raise DataError(
            f"None of the {len(samples)} samples has {' or '.join(names)}; they have {', '.join(there)}. "
            f"Choose of these with --use."
        )
    return kept


def read(
    samples: Sequence[Sample], modalities: Mapping[str, Modality], *, batch: int = 32, workers: int = 0
) -> Iterator[Loaded]:
    """The samples in order, in their deterministic evaluation views."""
    return load(samples, modalities, in_order(len(samples), batch), seed=None, workers=workers)


def embed(
    model: MaskedModel,
    samples: Sequence[Sample],
    batches: Iterable[Loaded],
    *,
    device: torch.device | str = "cpu",
    features: bool = False,
    use: Sequence[str] = (),
) -> Embeddings:
    """Embed `batches`, which are `read(samples, ...)`, with the modalities `use`, or all.

    `features` asks for the plain features as well.

    Raises:
        DataError: none of the samples can be read.
    """
    model = model.to(device).eval()
    names = chosen(model.method.modalities, use)
    unreadable: list[Unreadable] = []
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for loaded in batches:
        unreadable += loaded.unreadable
        for name, vectors in _vectors(model, loaded.batch.to(device), names).items():
            columns[f"vectors/{name}"].append(vectors)
        for name in names:
            columns[f"present/{name}"].append(loaded.batch.present[name].numpy())
            if features:
                columns[f"features/{name}"].append(_features(name, model.method.modalities[name], loaded.batch))
    kept = np.any([np.concatenate(parts) for name, parts in columns.items() if name.startswith("present/")], axis=0)
    if not kept.any():
        first = f"{unreadable[0].id}: {unreadable[0].reason}"
        raise DataError(f"None of the {len(samples)} files can be read; the first: {first}.")

    def rows(kind: str) -> dict[str, np.ndarray]:
        found = {name.removeprefix(kind): parts for name, parts in columns.items() if name.startswith(kind)}
        return {name: np.concatenate(parts)[kept] for name, parts in found.items()}

    ids = [sample.id for sample, keep in zip(samples, kept, strict=True) if keep]
    return Embeddings(ids, rows("present/"), rows("vectors/"), rows("features/"), unreadable)


@torch.inference_mode()
def _vectors(model: MaskedModel, batch: Batch, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The joint pass, and each modality's own; what nobody in the batch has is not run."""
    there = {name: batch.present[name] for name in names}
    passes = {"joint": (names, torch.stack(list(there.values())).any(dim=0))}
    passes |= {name: ((name,), flags) for name, flags in there.items()}
    made: dict[tuple[str, ...], Tensor] = {}
    found = {}
    for name, (over, flags) in passes.items():
        if flags.any() and over not in made:
            made[over] = model.embed(batch, over)
        nothing = flags.new_full((len(flags), model.method.encoder.latent_width), torch.nan, dtype=torch.float32)
        vectors = torch.where(flags[:, None], made[over].float(), nothing) if flags.any() else nothing
        found[name] = vectors.cpu().numpy()
    return found


def _features(name: str, modality: Modality, batch: Batch) -> np.ndarray:
    """Plain features of the samples that have the modality; NaN stands for those of the others."""
    there = batch.present[name]
    raw = batch.views["main"][name] if there.any() else modality.collate([modality.blank()])  # that has the width
    found = modality.features(raw)
    kept = found if there.any() else found.expand(len(there), -1)
    rows: np.ndarray = torch.where(there[:, None], kept, torch.nan).numpy()
    return rows


def write_parquet(embeddings: Embeddings, file: Path, checkpoint_hash: str, **metadata: str) -> None:
    """Columns `id`, `present` (names), `joint` and one per modality: fixed-size lists, null where absent.

    The file appears whole or not at all.
    """
    columns: dict[str, pa.Array] = {"id": pa.array([_text(name) for name in embeddings.ids])}
    names = list(embeddings.present)
    columns["present"] = pa.array(
        [[n for n in names if embeddings.present[n][row]] for row in range(len(embeddings.ids))], pa.list_(pa.string())
    )
    for name, vectors in embeddings.vectors.items():
        absent = None if name == "joint" else pa.array(~embeddings.present[name])
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=absent)
    about = {
        "checkpoint": checkpoint_hash,
        "pooling": POOLING,
        "mmim": version("mmim"),
        "torch": torch.__version__,
        **metadata,
    }
    table = pa.table(columns).replace_schema_metadata(about)
    partial = file.with_name(f".{file.name}.partial")
    pq.write_table(table, partial)
    partial.rename(file)


def read_parquet(file: Path) -> tuple[list[str], dict[str, Float[np.ndarray, "n _"]]]:
    """Ids and vectors of a file of `mmim embed`; NaN where a modality is absent.

    Raises:
        DataError: it is not such a file, holds no rows, or a vector that is not finite.
    """
    try:
        rows = pq.read_table(file)
        ids = rows["id"].to_pylist()
        lists = [name for name in rows.column_names if pa.types.is_fixed_size_list(rows.schema.field(name).type)]
        vectors = {name: _from_lists(rows[name].combine_chunks()) for name in lists}
        joint = vectors.pop("joint")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{file} is not a file of `mmim embed`: {' '.join(str(error).split())}.") from error
    if not ids:
        raise DataError(f"{file} holds no rows. Write it anew with `mmim embed`.")
    found = {"joint": joint, **vectors}
    for name, part in found.items():
        check_finite(name, part, rows[name].is_valid().to_numpy())
    return ids, found


def check_finite(name: str, vectors: Float[np.ndarray, "n _"], there: Bool[np.ndarray, " n"]) -> None:
    """Refuse vectors with NaN or infinity where there is a sample: they would pass for absent ones.

    Raises:
        DataError: there are such vectors.
    """
    bad = there & ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise DataError(
            f"The vectors {name!r} hold NaN or infinity in {bad.sum()} of {there.sum()} rows, the first is row "
            f"{bad.argmax()}. Go back to a checkpoint that is sound."
        )


def _from_lists(column: pa.FixedSizeListArray) -> Float[np.ndarray, "n _"]:
    """Rows of numbers from fixed-size lists, NaN from null; their values are kept or left out by who wrote the file."""
    rows = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    rows[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, rows.shape[1])
    return rows


def _text(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 become a replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
