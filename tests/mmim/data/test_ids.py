"""Sequences of symbols: the window, its padding, and ids that are none. The kit runs on them in `test_new.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from mmim.data.ids import IdsModality
from mmim.draw import Draw
from mmim.errors import ReadError
from mmim.modality import Source


@dataclass(frozen=True, kw_only=True)
class Strand(IdsModality):
    suffixes: ClassVar[tuple[str, ...]] = (".dna",)
    symbols: ClassVar[Sequence[str]] = "ACGT"

    def ids(self, path: Path) -> Sequence[int] | np.ndarray:
        return [self.symbols.find(letter) for letter in path.read_text().strip()]


@pytest.fixture
def strand(tmp_path):
    def write(text):
        (tmp_path / "a.dna").write_text(text)
        return Source(tmp_path / "a.dna")

    return write


def test_the_window_is_the_middle_one_in_evaluation_and_any_in_training(strand):
    source, modality = strand("AACCGGTT"), Strand(length=4)
    assert modality.read(source, None)["ids"].tolist() == [1, 1, 2, 2]
    seen = {tuple(modality.read(source, Draw(torch.tensor([key])))["ids"].tolist()) for key in range(40)}
    assert len(seen) == 5


def test_behind_the_end_stands_the_id_after_the_last_and_no_token_is_valid(strand):
    modality = Strand(length=6)
    raw = modality.read(strand("ACG"), None)
    assert raw["ids"].tolist() == [0, 1, 2, 4, 4, 4]
    tokens = modality.tokenize({name: leaf[None] for name, leaf in raw.items()})
    assert tokens.valid is not None
    assert tokens.valid[0].tolist() == [True] * 3 + [False] * 3
    assert modality.vocabulary.size == 5
    assert modality.vocabulary.mask == 4


@pytest.mark.parametrize(("text", "reason"), [("", "no symbols; a row of ids"), ("ACX", "ids from -1 to 1;")])
def test_ids_that_can_t_be_are_a_read_error(text, reason, strand):
    with pytest.raises(ReadError, match=reason):
        Strand().read(strand(text), None)


@dataclass(frozen=True, kw_only=True)
class Codes(Strand):
    def ids(self, path: Path) -> Sequence[int] | np.ndarray:
        return np.load(path)  # the most natural answer


def test_ids_may_be_an_array_of_whole_numbers_and_of_no_others(tmp_path):
    np.save(tmp_path / "0.npy", np.arange(3, dtype=np.uint16))
    assert Codes().read(Source(tmp_path / "0.npy"), None)["ids"][:3].tolist() == [0, 1, 2]
    for wrong, reason in ((np.ones(3), "float64"), (np.ones((2, 2), np.int64), r"\(2, 2\)"), ([], "no symbols")):
        np.save(tmp_path / "1.npy", wrong)
        with pytest.raises(ReadError, match=reason):
            Codes().read(Source(tmp_path / "1.npy"), None)
