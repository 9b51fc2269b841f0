"""From a model and files to embeddings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from jaxtyping import Bool, Float

from mmim.config import from_plain, to_plain
from mmim.data.loader import Loaded, Unreadable, in_order, load
from mmim.data.sources import Sample
from mmim.errors import DataError, OptionError
from mmim.modality import Modality
from mmim.model import MaskedModel

POOLING = "mean over all tokens of the encoder's output, nothing masked"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One row a sample that could be read.

    vectors["joint"] is the joint pass over all modalities a sample has; vectors[modality] the pass over that one
    alone (NaN: absent).
    """

    ids: list[str]
    present: dict[str, Bool[np.ndarray, " n"]]
    vectors: dict[str, Float[np.ndarray, "n _"]]
    features: dict[str, Float[np.ndarray, "n _"]]
    """Plain features of the raw data, by modality, where asked for: the floor that an encoder has to beat."""
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
        plain[name][field] = yaml.safe_load(f"[{value}]" if isinstance(plain[name][field], list) else value)
    return {name: from_plain(Modality, fields, name) for name, fields in plain.items()}


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
) -> Embeddings:
    """Embed `batches`, which are `read(samples, ...)`; `features` asks for the plain features as well.

    Raises:
        DataError: none of the samples can be read.
    """
    model = model.to(device).eval()
    unreadable: list[Unreadable] = []
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for loaded in batches:
        unreadable += loaded.unreadable
        with torch.inference_mode():
            for name, vectors in _vectors(model, loaded, device).items():
                columns[f"vectors/{name}"].append(vectors)
        for name, flags in loaded.batch.present.items():
            columns[f"present/{name}"].append(flags.numpy())
            if features:
                raw = loaded.batch.views["main"][name]
                columns[f"features/{name}"].append(model.method.modalities[name].features(raw).numpy())
    kept = np.any([np.concatenate(parts) for name, parts in columns.items() if name.startswith("present/")], axis=0)
    if not kept.any():
        first = f"{unreadable[0].id}: {unreadable[0].reason}"
        raise DataError(f"None of the {len(samples)} files can be read; the first: {first}.")

    def rows(kind: str) -> dict[str, np.ndarray]:
        found = {name.removeprefix(kind): parts for name, parts in columns.items() if name.startswith(kind)}
        return {name: np.concatenate(parts)[kept] for name, parts in found.items()}

    ids = [sample.id for sample, keep in zip(samples, kept, strict=True) if keep]
    return Embeddings(ids, rows("present/"), rows("vectors/"), rows("features/"), unreadable)


def _vectors(model: MaskedModel, loaded: Loaded, device: torch.device | str) -> dict[str, np.ndarray]:
    batch = loaded.batch.to(device)
    found = {"joint": model.embed(batch)}
    for name, flags in batch.present.items():
        alone = found["joint"] if len(batch.present) == 1 else model.embed(batch, [name])
        found[name] = torch.where(flags[:, None], alone, torch.nan)
    return {name: vectors.float().cpu().numpy() for name, vectors in found.items()}


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


def _text(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 become a replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
