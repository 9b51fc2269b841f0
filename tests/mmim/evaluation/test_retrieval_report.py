import json

import numpy as np
import pytest
from rich.console import Console

from mmim.errors import DataError, OptionError
from mmim.evaluation.cca import cca_vectors
from mmim.evaluation.retrieval import retrieve
from mmim.evaluation.retrieval_report import FLOOR, as_dict, compare, parse_pairs, table

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c")
CONTENT = RNG.normal(size=(80, 6))
TEST = np.arange(80) % 2 == 0
RAW = {name: CONTENT @ RNG.normal(size=(6, 9)) + 0.2 * RNG.normal(size=(80, 9)) for name in NAMES}
SETS = {
    "trained": {name: CONTENT + 0.3 * RNG.normal(size=(80, 6)) for name in NAMES},
    "untrained": {name: RNG.normal(size=(80, 6)) for name in NAMES},
}
GROUPS = [f"group {i // 4}" for i in range(80)]


def without(vectors: dict[str, np.ndarray], name: str, rows: slice) -> dict[str, np.ndarray]:
    changed = vectors[name].copy()
    changed[rows] = np.nan
    return {**vectors, name: changed}


@pytest.fixture(scope="module")
def rows():
    return compare(SETS, RAW, [("a", "b"), ("b", "c")], TEST)[0]


def test_there_is_a_row_for_each_direction_and_set(rows):
    directions = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    expected = [(*direction, name) for direction in directions for name in (*SETS, FLOOR)]
    assert [(row.query, row.candidate, row.features) for row in rows] == expected


def test_the_numbers_are_those_of_the_parts(rows):
    by = {(row.query, row.candidate, row.features): row.found for row in rows}
    trained = SETS["trained"]
    assert by["c", "b", "trained"] == retrieve(trained["c"][TEST], trained["b"][TEST], centred=True)
    first, second = cca_vectors(RAW["a"][~TEST], RAW["b"][~TEST], RAW["a"][TEST], RAW["b"][TEST])
    assert by["a", "b", FLOOR] == retrieve(first, second, centred=True)
    assert by["b", "a", FLOOR] == retrieve(second, first, centred=True)
    assert by["a", "b", FLOOR].recall[1].low > by["a", "b", FLOOR].chance[1]


def test_groups_are_those_of_the_test_rows():
    found, _ = compare(SETS, {}, [("a", "b")], TEST, GROUPS)
    held = [group for group, is_test in zip(GROUPS, TEST, strict=True) if is_test]
    assert found[0].found == retrieve(SETS["trained"]["a"][TEST], SETS["trained"]["b"][TEST], held, centred=True)
    assert found[0].found.chance[1] == pytest.approx(2 / 40)


def test_absent_samples_count_in_no_set():
    sets = {name: without(vectors, "b", slice(0, 20)) for name, vectors in SETS.items()}
    found, reasons = compare(sets, without(RAW, "b", slice(0, 20)), [("a", "b")], TEST)
    assert reasons == {}
    assert [row.found.pairs for row in found] == [30] * 6


def test_without_a_split_there_is_no_floor_and_a_reason():
    found, reasons = compare(SETS, RAW, [("a", "b")], np.ones(80, dtype=bool))
    assert [row.features for row in found] == ["trained", "untrained"] * 2
    assert reasons == {
        f"{FLOOR} of a and b": "it is fitted on samples that are no candidates. Choose these by --split COLUMN=VALUE."
    }


def test_a_pair_that_nobody_has_is_told_and_the_others_stay():
    sets = {name: without(vectors, "c", slice(None)) for name, vectors in SETS.items()}
    found, reasons = compare(sets, {}, parse_pairs((), NAMES), TEST)
    assert {(row.query, row.candidate) for row in found} == {("a", "b"), ("b", "a")}
    assert list(reasons) == ["a and c", "b and c"]
    assert reasons["a and c"].startswith("0 of 40 samples have both vectors")


def test_if_no_pair_is_left_that_is_an_error():
    sets = {name: without(vectors, "c", slice(None)) for name, vectors in SETS.items()}
    with pytest.raises(DataError, match=r"Nothing to retrieve, a and c: 0 of 40 samples have both vectors"):
        compare(sets, {}, [("a", "c")], TEST)


def test_every_pair_is_the_default():
    assert parse_pairs((), NAMES) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert parse_pairs(("c:a",), NAMES) == [("c", "a")]


@pytest.mark.parametrize(
    ("asked", "names", "message"),
    [
        (("a",), NAMES, r"--pairs a can't be read: write FIRST:SECOND, of a, b, c"),
        (("a:",), NAMES, r"--pairs a: can't be read"),
        (("a:d",), NAMES, r"--pairs a:d: there is no 'd'. Choose of a, b, c"),
        (("a:a",), NAMES, r"--pairs a:a: every sample would find itself"),
        (("a:b", "b:a"), NAMES, r"--pairs names b and a twice: both directions are told anyway"),
        ((), ("a",), r"there is a alone\. Give"),
        (("a:b",), (), r"there is none\. Give"),
    ],
)
def test_pairs_that_can_not_be_are_refused(asked, names, message):
    with pytest.raises(OptionError, match=message):
        parse_pairs(asked, names)


def test_the_table_fits_100_columns_with_every_number_on_one_line(rows):
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(rows))
    lines = [line for line in shown.get().splitlines() if line.lstrip().startswith(("trained", "untrained", "raw"))]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        recall, rank = row.found.recall[5], row.found.median_rank
        assert f"{100 * recall.value:.1f} [{100 * recall.low:.1f}, {100 * recall.high:.1f}]" in line
        assert f"{rank.value:.0f} [{rank.low:.0f}, {rank.high:.0f}]" in line
    assert "a -> b 40 pairs" in " ".join(shown.get().split())
    assert sum(line.lstrip().startswith("chance") and " 2.5 " in line for line in shown.get().splitlines()) == 4


def test_names_with_brackets_are_shown_as_they_are():
    found, _ = compare({"[bold]x[/]": {"[red]": CONTENT, "b": CONTENT}}, {}, [("[red]", "b")], TEST)
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(found))
    assert "[red] -> b" in shown.get()
    assert "[bold]x[/]" in shown.get()


def test_the_dictionary_is_json(rows):
    read = json.loads(json.dumps(as_dict(rows)))["rows"]
    found = rows[0].found
    assert len(read) == len(rows)
    assert read[0]["R@1"] == {"value": found.recall[1].value, "low": found.recall[1].low, "high": found.recall[1].high}
    assert read[0]["chance"] == {"R@1": 1 / 40, "R@5": 5 / 40, "R@10": 10 / 40, "median_rank": 20}
    assert (read[0]["query"], read[0]["candidate"], read[0]["features"], read[0]["pairs"]) == ("a", "b", "trained", 40)
