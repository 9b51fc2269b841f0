"""Embeddings of a method with two modalities, of which a sample may have one, both, or an unreadable file."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mmim.data.sources import Sample
from mmim.embed import POOLING, Embeddings, chosen, embed, having, read, read_as, read_parquet, write_parquet
from mmim.errors import DataError, OptionError
from mmim.masking.tube import TubeMasking
from mmim.modality import Source
from mmim.model import MaskedModel
from mmim.parts import register
from tests.toy import TOY, Toy


@register("other_toy")
@dataclass(frozen=True, kw_only=True)
class Other(Toy):
    """Shorter samples from files of another kind."""

    suffixes: ClassVar[tuple[str, ...]] = (".other",)
    rows: int = 4


TWO = replace(
    TOY,
    modalities={"toy": Toy(), "other": Other()},
    masking={"toy": TubeMasking(), "other": TubeMasking()},
)
HAS = {"a": ("toy", "other"), "b": ("toy",), "c": ("other",), "d": ("toy", "other"), "e": ("toy",)}
ROWS = {"toy": 8, "other": 4}


def sample(folder: Path, id: str, names: tuple[str, ...]) -> Sample:
    """A sample of noise with a file for each of its modalities."""
    sources = {}
    for name in names:
        with (folder / f"{id}.{name}").open("wb") as file:
            rng = np.random.default_rng([ord(id), len(name)])
            np.save(file, rng.normal(size=(ROWS[name], 4)).astype(np.float32))
        sources[name] = Source(folder / f"{id}.{name}")
    return Sample(id, sources)


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    return [sample(tmp_path, id, names) for id, names in HAS.items()]


@pytest.fixture(scope="module")
def model() -> MaskedModel:
    torch.manual_seed(0)
    return MaskedModel(TWO)


def embedded(model: MaskedModel, samples: list[Sample], batch: int = 2, **options: bool) -> Embeddings:
    return embed(model, samples, read(samples, model.method.modalities, batch=batch), **options)


def spoil(sample: Sample) -> None:
    for source in sample.sources.values():
        source.path.write_text("no numbers")


def test_joint_is_the_mean_over_the_valid_tokens(model, samples):
    found = embedded(model, samples)
    model.eval()
    with torch.inference_mode():
        latents = model.latents(next(read(samples, TWO.modalities, batch=5)).batch)
    assert latents.valid.sum(dim=1).tolist() == [sum(ROWS[name] for name in names) for names in HAS.values()]
    means = [values[valid].mean(dim=0).numpy() for values, valid in zip(latents.values, latents.valid, strict=True)]
    assert_allclose(found.vectors["joint"], np.stack(means), atol=1e-6)


def test_a_modality_alone_is_the_pass_over_it_alone(model, samples):
    found = embedded(model, samples)
    batch = next(read(samples, TWO.modalities, batch=5)).batch
    for name in TWO.modalities:
        there = batch.present[name].numpy()
        with torch.inference_mode():
            alone = model.latents(batch, [name]).values.mean(dim=1).numpy()
        assert_allclose(found.vectors[name][there], alone[there], atol=1e-6)
        assert np.isnan(found.vectors[name][~there]).all()
        assert_array_equal(found.present[name], there)
    both, only_toy = ([id for id in "abcde" if HAS[id] == names] for names in (("toy", "other"), ("toy",)))
    joint, toy = (dict(zip(found.ids, found.vectors[name], strict=True)) for name in ("joint", "toy"))
    assert all(np.allclose(joint[id], toy[id], atol=1e-6) for id in only_toy)
    assert not any(np.allclose(joint[id], toy[id], atol=1e-3) for id in both)


def test_the_embedding_of_a_sample_does_not_depend_on_its_batch(model, samples):
    one, other = embedded(model, samples, batch=1), embedded(model, samples, batch=5)
    assert one.ids == other.ids
    for name, vectors in one.vectors.items():
        assert_allclose(other.vectors[name], vectors, atol=1e-6)


def test_unreadable_samples_are_left_out_and_listed(model, samples):
    whole = embedded(model, samples, features=True)
    spoil(samples[1])
    found = embedded(model, samples, features=True)
    assert found.ids == ["a", "c", "d", "e"]
    assert [(bad.id, bad.reason) for bad in found.unreadable] == [("b", "not an array")]
    kept = [0, 2, 3, 4]
    for part in ("vectors", "present", "features"):
        for name, rows in getattr(found, part).items():
            assert_allclose(rows, getattr(whole, part)[name][kept], atol=1e-6, err_msg=f"{part} {name}")


def test_without_any_readable_sample_there_is_nothing_to_embed(model, samples):
    for bad in samples:
        spoil(bad)
    with pytest.raises(DataError, match=r"None of the 5 files can be read; the first: a: not an array"):
        embedded(model, samples)


def test_features_come_only_where_asked_for(model, samples):
    assert embedded(model, samples).features == {}
    features = embedded(model, samples, features=True).features
    for name, source in samples[0].sources.items():
        assert_array_equal(features[name][0], np.load(source.path).reshape(-1))


def test_features_of_absent_samples_are_no_zeros(model, samples):
    for batch in (1, 2, 5):  # of 1: batches in which nobody has the modality
        found = embedded(model, samples, batch=batch, features=True)
        for name, rows in found.features.items():
            assert rows.shape == (5, 4 * ROWS[name])
            assert_array_equal(np.isnan(rows).all(axis=1), ~found.present[name])
            assert_array_equal(np.isnan(rows).any(axis=1), ~found.present[name])


def test_a_modality_that_nobody_has_is_a_column_of_nothing(model, samples):
    found = embedded(model, [samples[1], samples[4]], features=True)
    assert not found.present["other"].any()
    assert np.isnan(found.vectors["other"]).all()
    assert np.isnan(found.features["other"]).all()
    assert found.vectors["other"].shape == (2, 8)
    assert found.features["other"].shape == (2, 16)
    assert_allclose(found.vectors["joint"], found.vectors["toy"], atol=1e-6)


def test_joint_is_the_pass_over_the_modalities_in_use(model, samples):
    whole = embedded(model, samples)
    for use in (["toy"], ["other"], ["other", "toy"]):
        own = having(samples, use)
        found = embed(model, own, read(own, model.method.modalities, batch=2), use=use)
        assert list(found.vectors) == ["joint", *sorted(use, reverse=True)]
        assert set(found.present) == set(use)
        kept = [i for i, names in enumerate(HAS.values()) if set(names) & set(use)]
        assert found.ids == [whole.ids[i] for i in kept]
        joint = "joint" if len(use) == 2 else use[0]
        assert_allclose(found.vectors["joint"], whole.vectors[joint][kept], atol=1e-6)


def test_a_modality_that_is_not_in_use_is_not_read(model, samples):
    samples[0].sources["other"].path.write_text("no numbers")
    own = having(samples, ["toy"])
    assert embed(model, own, read(own, model.method.modalities), use=["toy"]).unreadable == []
    assert len(embedded(model, samples).unreadable) == 1


def test_unknown_modalities_are_refused(samples):
    assert chosen(TWO.modalities, ()) == ("toy", "other")
    with pytest.raises(OptionError, match=r"--use sound: the model knows toy, other"):
        chosen(TWO.modalities, ["sound"])
    with pytest.raises(OptionError, match=r"--use names toy twice"):
        chosen(TWO.modalities, ["toy", "toy"])
    with pytest.raises(DataError, match=r"None of the 2 samples has other; they have toy"):
        having([samples[1], samples[4]], ["other"])


def test_a_parquet_file_reads_as_it_was_written(model, samples, tmp_path):
    found = embedded(model, samples)
    write_parquet(found, tmp_path / "clips.parquet", "f00d")
    ids, vectors = read_parquet(tmp_path / "clips.parquet")
    assert ids == found.ids
    assert list(vectors) == list(found.vectors)
    for name, rows in vectors.items():
        assert_array_equal(rows, found.vectors[name])


def test_vectors_that_are_not_finite_do_not_pass_for_absent_ones(model, samples, tmp_path):
    found = embedded(model, samples)
    found.vectors["toy"][3] = np.nan
    write_parquet(found, tmp_path / "clips.parquet", "f00d")
    with pytest.raises(DataError, match=r"The vectors 'toy' hold NaN or infinity in 1 of 4 rows, the first is row 3"):
        read_parquet(tmp_path / "clips.parquet")


def test_what_is_no_file_of_embeddings_is_refused(model, samples, tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    found = embedded(model, samples)
    nothing = replace(
        found,
        ids=[],
        present={name: flags[:0] for name, flags in found.present.items()},
        vectors={name: rows[:0] for name, rows in found.vectors.items()},
    )
    write_parquet(nothing, tmp_path / "empty.parquet", "f00d")
    for name, message in (("text", "is not a file of"), ("other", "is not a file of"), ("empty", "holds no rows")):
        with pytest.raises(DataError, match=message):
            read_parquet(tmp_path / f"{name}.parquet")


def test_a_parquet_row_is_null_where_a_modality_is_absent(model, samples, tmp_path):
    found = embedded(model, samples)
    write_parquet(found, tmp_path / "clips.parquet", "f00d")
    table = pq.read_table(tmp_path / "clips.parquet")
    assert table.column_names == ["id", "present", "joint", "toy", "other"]
    assert table["id"].to_pylist() == list(HAS)
    assert [tuple(names) for names in table["present"].to_pylist()] == list(HAS.values())
    assert table["joint"].null_count == 0
    for name in ("joint", "toy", "other"):
        assert table.schema.field(name).type.list_size == 8
        for id, row, vector in zip(HAS, table[name].to_pylist(), found.vectors[name], strict=True):
            assert (row is None) == (name != "joint" and name not in HAS[id]), (id, name)
            assert row is None or row == vector.tolist()


def test_a_parquet_file_says_where_its_numbers_come_from(model, samples, tmp_path):
    write_parquet(embedded(model, samples), tmp_path / "clips.parquet", "f00d", source="runs/toy")
    metadata = pq.read_table(tmp_path / "clips.parquet").schema.metadata
    about = {
        "checkpoint": "f00d",
        "pooling": POOLING,
        "mmim": version("mmim"),
        "torch": torch.__version__,
        "source": "runs/toy",
    }
    assert {key: metadata[key.encode()].decode() for key in about} == about


def test_a_parquet_file_appears_whole_or_not_at_all(model, samples, tmp_path, monkeypatch):
    def interrupted(table, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_parquet(embedded(model, samples), tmp_path / "clips.parquet", "f00d")
    assert not (tmp_path / "clips.parquet").exists()


def test_modalities_can_read_otherwise_than_in_training(samples, model):
    wider = read_as(TWO.modalities, ["toy.rows=6"])
    assert wider == {"toy": Toy(rows=6), "other": Other()}
    assert TWO.modalities["toy"].rows == 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("toy.rows", r"can't be read: write NAME.FIELD=VALUE, of one of toy.rows, other.rows"),
        ("rows=6", r"can't be read: write NAME.FIELD=VALUE"),
        ("toy.height=6", r"toy.height is nothing that reading could change; there are toy.rows, other.rows"),
        ("sound.rows=6", r"sound.rows is nothing that reading could change; there are toy.rows"),
        ("toy.columns=2", r"toy.columns is nothing that reading could change; there are toy.rows, other.rows"),
        ("toy.rows=many", r"toy.rows is 'many'; it must be of type int"),
    ],
)
def test_a_setting_that_can_not_be_is_refused(setting, message):
    with pytest.raises(OptionError, match=message):
        read_as(TWO.modalities, [setting])
