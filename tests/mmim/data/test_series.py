"""A stranger's series in one short class, the window that it shows, and files that are none."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmim.data.series import SeriesModality
from mmim.data.series_read import read_series, without_gaps
from mmim.draw import Draw
from mmim.errors import OptionError, ReadError
from mmim.modality import Source
from mmim.testing import MODALITY_CHECKS, depicted, run


@dataclass(frozen=True, kw_only=True)
class Sway(SeriesModality):
    """Two waves, as quick as the scene's object is large."""

    suffixes: ClassVar[tuple[str, ...]] = (".sway.csv", ".sway.npy")

    channels: int = 2

    def depict(self, scene: Any, path: Any) -> None:
        rng = scene.nuisance("sway")
        time = np.arange(rng.integers(100, 200)) / {"small": 6, "medium": 10, "large": 16}[scene.size]
        waves = np.stack([np.sin(time + rng.random()), 3 + 2 * np.cos(2 * time)], axis=1)
        np.savetxt(path, waves, "%.6f", delimiter=",", header="x,y", comments="")


CASES = {
    "own statistics": Sway(length=64, patch=8),
    "given statistics": Sway(length=64, patch=8, mean=(0.0, 3.0), std=(0.7, 1.4), positions="learned"),
    "longer than its files": Sway(length=256, patch=8),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(Sway(), tmp_path_factory.mktemp("sway"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES)
def test_a_stranger_s_series_honours_the_contract(case, check, files):
    run(check, CASES[case], files)


# The window


@pytest.fixture
def ramp(tmp_path):
    """Steps 0 ... 99 and their negatives."""
    steps = np.arange(100)
    np.save(tmp_path / "ramp.sway.npy", np.stack([steps, -steps], axis=1))
    return Source(tmp_path / "ramp.sway.npy")


def test_the_window_of_evaluation_is_the_middle_one(ramp):
    window = Sway(length=20, patch=5).read(ramp, None)
    assert_close(window["numbers"][0], torch.arange(40.0, 60.0))
    assert_close(window["numbers"][1], -window["numbers"][0])
    assert window["length"] == 20


def test_windows_of_training_reach_both_ends(ramp):
    starts = {int(Sway(length=98, patch=7).read(ramp, Draw(torch.tensor([key])))["numbers"][0, 0]) for key in range(40)}
    assert starts == {0, 1, 2}


def test_behind_the_end_are_zeros_and_tokens_that_are_not_valid(ramp):
    sway = Sway(length=128, patch=8)
    window = sway.read(ramp, None)
    assert window["length"] == 100
    tokens = sway.tokenize({name: leaf[None] for name, leaf in window.items()})
    assert tokens.valid is not None
    assert tokens.valid[0].tolist() == [True] * 12 + [False] * 4  # of the 13th token less than half
    data = sway.untokenize(tokens.values, tokens)
    assert not data[..., 100:].any()
    assert_close(data[..., :100].mean(dim=2), torch.zeros(1, 2), atol=1e-5, rtol=0)
    assert_close(data[..., :100].std(dim=2, correction=0), torch.ones(1, 2))


def test_given_statistics_are_undone():
    sway = Sway(length=16, patch=4, mean=(1.0, -2.0), std=(0.5, 4.0))
    numbers = torch.randn(3, 2, 16)
    tokens = sway.tokenize({"numbers": numbers, "length": torch.full((3,), 16)})
    assert_close(sway.untokenize(sway.raw(tokens.values), tokens), numbers)


def test_a_channel_that_does_not_change_is_zero():
    numbers = torch.stack([torch.full((16,), 1234.5), torch.linspace(0, 1e-4, 16)])[None]
    values = Sway(length=16, patch=4).tokenize({"numbers": numbers, "length": torch.tensor([16])}).values
    assert not values[:, :, 0].any()
    assert_close(values[:, :, 1].std(correction=0), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_positions_go_on_in_time():
    sway = Sway(length=32, patch=4)
    position = sway.position(8)
    short, long = (
        position(sway.tokenize({"numbers": torch.zeros(1, 2, steps), "length": torch.tensor([steps])}))
        for steps in (32, 64)
    )
    assert_close(long[:, :8], short, rtol=0, atol=0)


def test_a_picture_has_a_lane_for_each_channel_and_what_is_beyond_it_ends_at_its_edge():
    low, high = (Sway(length=64, patch=8).render(torch.full((1, 2, 64), x))[0] for x in (-1e9, 1e9))
    assert low.shape == (64, 256, 3)
    assert bool((low != high).any(axis=2)[:31].all())  # so that what is hidden becomes a grey box
    assert bool((low == high).all(axis=2)[31].all())


@pytest.mark.parametrize(
    "fields",
    [{"channels": 0}, {"patch": 7}, {"mean": (0.0, 0.0)}, {"mean": (0.0,), "std": (1.0,)},
     {"mean": (0.0, 0.0), "std": (1.0, 0.0)}, {"mean": (0.0, float("nan")), "std": (1.0, 1.0)}],
)  # fmt: skip
def test_fields_that_can_t_be_are_refused(fields):
    with pytest.raises(OptionError, match=r"Sway"):
        Sway(**fields)


# Files


TEXTS = {
    "commas and a header": "time,x\n0,1.5\n1,-2\n",
    "tabs": "0\t1.5\n1\t-2\n",
    "semicolons, and carriage returns": "0;1.5\r\n1;-2\r\n",
    "carriage returns alone": "time,x\r0,1.5\r1,-2\r",
    "spaces, comments and blank lines": "# of a device\n\n0   1.5\n\n  1 -2\n",
    "a byte order mark and quotes": '\ufeff"time","x"\n"0","1.5"\n1,-2',
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_table_in_text_is_read_whatever_its_marks(kind, tmp_path):
    (tmp_path / "a.csv").write_bytes(TEXTS[kind].encode())
    assert read_series(tmp_path / "a.csv", 2).tolist() == [[0, 1.5], [1, -2]]


def test_arrays_are_read_in_every_order_and_type(tmp_path):
    numbers = np.arange(6).reshape(3, 2)
    for array in (numbers, np.asfortranarray(numbers).astype(">f4"), numbers.astype(np.uint8)):
        np.save(tmp_path / "a.npy", array)
        np.savez_compressed(tmp_path / "a.npz", array)
        for name in ("a.npy", "a.npz"):
            assert read_series(tmp_path / name, 2).tolist() == numbers.tolist()
    np.save(tmp_path / "one.npy", np.arange(3.0))
    assert read_series(tmp_path / "one.npy", 1).tolist() == [[0], [1], [2]]


def test_gaps_are_filled_by_lines_and_the_nearest(tmp_path):
    (tmp_path / "a.csv").write_text("1,\n,5\nnan,inf\n4,9\n")
    assert without_gaps(read_series(tmp_path / "a.csv", 2)).tolist() == [[1, 5], [2, 5], [3, 7], [4, 9]]


BROKEN = {
    "empty": (b"", "empty file"),
    "blank": (b"\n\n", "no rows of numbers"),
    "a header alone": (b"x,y\n", "no rows of numbers"),
    "words": (b"x,y\n1,2\n3,left\n", "line 3: 'left' is no number"),
    "a decimal comma": (
        b"1,5;2,5\n3,5;4,5\n1,0;2,0\n",
        "line 2: '3,5' is no number, but for its decimal comma: write a point",
    ),
    "a short row": (b"1,2\n3\n", "line 2 has another number of columns"),
    "three columns": (b"1,2,3\n", "3 columns; 2 are read"),
    "one column": (b"1\n2\n", "1 column; 2 are read"),
    "no text": (b"\0\1\2", "neither text nor an array"),
    "no UTF-8": (b"1,2\n\xff,3\n", "neither UTF-8 text"),
    "half a header": (b"\x93NUMPY\1\0", "can't be read"),
    "an archive that breaks off": (b"PK\3\4 and nothing else", "can't be read"),
    "nothing but gaps": (b"1,nan\n2,\n", "channel 1 of 2 has no number in 2 steps"),
    "too large": (b"1,2\n1e12,3\n", "a number of 1e\\+12"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_series_gives_a_short_reason(kind, tmp_path):
    content, reason = BROKEN[kind]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ReadError, match=reason) as raised:
        without_gaps(read_series(tmp_path / "a.csv", 2))
    assert len(str(raised.value)) < 120
    assert str(tmp_path) not in str(raised.value)


ARRAYS = {
    "turned": (np.zeros((2, 9)), r"shape \(2, 9\); a series is \(steps, 2\)"),
    "one axis": (np.zeros(4), r"shape \(4,\)"),
    "three axes": (np.zeros((4, 2, 1)), "shape"),
    "no steps": (np.zeros((0, 2)), "no steps"),
    "words": (np.array([["a", "b"]]), "of type <U1"),
    "objects": (np.array([[{}, 1]], dtype=object), "of type object"),
    "complex": (np.zeros((3, 2), complex), "of type complex128"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_is_no_series_is_refused(kind, tmp_path):
    array, reason = ARRAYS[kind]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ReadError, match=reason):
            read_series(tmp_path / name, 2)


def test_a_truncated_array_and_several_in_an_archive_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 2)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    np.savez(tmp_path / "a.npz", np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ReadError, match="can't be read: mmap length"):
        read_series(tmp_path / "a.npy", 2)
    with pytest.raises(ReadError, match="2 arrays; an archive holds one series"):
        read_series(tmp_path / "a.npz", 2)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.npy"):
        with pytest.raises(ReadError, match="can't be read"):
            read_series(path, 2)
