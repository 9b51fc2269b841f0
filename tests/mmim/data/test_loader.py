from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

from mmim.data.loader import in_order, load
from mmim.data.order import Layout, Order, Visit
from mmim.data.sources import find_samples
from mmim.modality import Source
from tests.toy import TOY, Toy, write_samples
from tests.words import Words


@pytest.fixture
def samples(tmp_path):
    return write_samples(tmp_path, 7)


def by_visit(samples, layout, *, workers=0, seed=0, repeats=2, steps=3) -> dict[int, torch.Tensor]:
    """What is read, by the key of the visit."""
    order = Order([sample.hash for sample in samples], seed, repeats)
    rows = {}
    for process in range(layout.processes):
        turns = order.micro_batches(layout, process, 0, steps)
        for loaded in load(samples, TOY.modalities, turns, seed=seed, workers=workers):
            rows |= zip(loaded.batch.keys.tolist(), loaded.batch.views["main"]["toy"], strict=True)
    return rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("layout", [Layout(8, 8), Layout(8, 2), Layout(8, 2, 2)], ids=str)
def test_a_visit_reads_the_same_whatever_workers_and_batches(samples, layout, workers):
    expected, found = by_visit(samples, Layout(8, 4)), by_visit(samples, layout, workers=workers)
    assert len(found) == 24
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(samples, workers):
    batches = load(samples, TOY.modalities, in_order(7, 3), seed=None, workers=workers)
    ids = [loaded.batch.ids.tolist() for loaded in batches]
    assert ids == [[sample.hash for sample in samples[i : i + 3]] for i in (0, 3, 6)]


def test_other_repeats_epochs_and_seeds_read_other_views(samples):
    visits = [Visit(0, 0, 0), Visit(0, 0, 1), Visit(0, 1, 0)]
    views = [
        view
        for seed in (0, 1)
        for view in next(load(samples, TOY.modalities, iter([visits]), seed=seed, workers=0)).batch.views["main"]["toy"]
    ]
    assert len({view[0, 0].item() for view in views}) == 6


def test_evaluation_reads_without_draws(samples):
    loaded = next(load(samples, TOY.modalities, in_order(7, 7), seed=None, workers=0))
    expected = torch.stack([Toy().read(sample.sources["toy"], None) for sample in samples])
    assert torch.equal(loaded.batch.views["main"]["toy"], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_becomes_absent_zeros_with_its_reason(samples, workers):
    samples[2].sources["toy"].path.write_text("not numbers")
    loaded = next(load(samples, TOY.modalities, in_order(7, 7), seed=0, workers=workers))
    assert loaded.batch.present["toy"].tolist() == [i != 2 for i in range(7)]
    assert (loaded.batch.views["main"]["toy"][2] == 0).all()
    assert [(bad.id, bad.modality, bad.reason) for bad in loaded.unreadable] == [("02.npy", "toy", "not an array")]


def test_a_batch_may_hold_nobody(samples):
    for sample in samples:
        sample.sources["toy"].path.unlink()
    loaded = next(load(samples, TOY.modalities, in_order(7, 7), seed=0, workers=0))
    assert not loaded.batch.present["toy"].any()
    assert len(loaded.unreadable) == 7


def test_a_fault_in_a_modality_is_not_taken_for_a_bad_file(samples):
    class Faulty(Toy):
        def read(self, source, draw):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(load(samples, {"toy": Faulty()}, in_order(7, 7), seed=0, workers=0))


def test_the_keys_are_all_modalities_whoever_has_them(tmp_path):
    @dataclass(frozen=True)
    class Other(Toy):
        suffixes: ClassVar[tuple[str, ...]] = (".other",)

    write_samples(tmp_path, 2)
    (tmp_path / "00.npy").rename(tmp_path / "00.other")
    modalities = {"toy": Toy(), "other": Other()}
    loaded = next(load(find_samples(tmp_path, modalities), modalities, in_order(2, 2), seed=0, workers=0))
    assert list(loaded.batch.views["main"]) == ["toy", "other"]
    assert {name: flags.tolist() for name, flags in loaded.batch.present.items()} == {
        "toy": [False, True],
        "other": [True, False],
    }


def test_a_file_is_opened_once_for_all_its_repeats(samples):
    opened = []

    class Counting(Toy):
        def read_many(self, source, draws):
            opened.append((source.path.name, len(draws)))
            return super().read_many(source, draws)

    turns = Order([sample.hash for sample in samples], 0, 4).micro_batches(Layout(8, 8), 0, 0, 1)
    next(load(samples, {"toy": Counting()}, turns, seed=0, workers=0))
    assert [count for _, count in opened] == [4, 4]


def test_an_absent_sample_is_no_longer_than_those_that_are_there(tmp_path):
    (tmp_path / "lines.words").write_text("a a a\na\n")
    words = {"words": Words().prepare([Source(tmp_path / "lines.words", row) for row in (0, 1)])}
    (tmp_path / "gone.words").write_bytes(b"\xff")
    samples = find_samples(tmp_path, words)
    (loaded,) = load(samples, words, in_order(3, 3), seed=None, workers=0)
    raw, present = loaded.batch.views["main"]["words"], loaded.batch.present["words"]
    assert present.tolist() == [False, True, True]
    assert raw["ids"].shape == (3, 4)
    assert raw["length"].tolist() == [0, 4, 2]
    assert not raw["ids"][0].any()
