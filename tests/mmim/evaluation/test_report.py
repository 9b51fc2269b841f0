import json

import numpy as np
import pytest
from rich.console import Console

from mmim.errors import DataError
from mmim.evaluation.intervals import accuracy_interval, difference_interval
from mmim.evaluation.knn import knn_correct
from mmim.evaluation.report import as_dict, compare, compare_present, table

RNG = np.random.default_rng(0)
SHAPE, COLOUR = RNG.integers(4, size=240), RNG.integers(3, size=240)
TEST = np.arange(240) % 3 == 0
FEATURES = {
    "trained": 8 * np.eye(4, 16)[SHAPE] + RNG.normal(size=(240, 16)),
    "untrained": 1 * np.eye(4, 16)[SHAPE] + RNG.normal(size=(240, 16)),
    "down-sampled pixels": RNG.normal(size=(240, 30)).astype(np.float32),
}
LABELS = {"shape": [f"shape {i}" for i in SHAPE], "colour": [f"colour {i}" for i in COLOUR]}


@pytest.fixture(scope="module")
def rows():
    return compare(FEATURES, LABELS, TEST)


def test_there_is_a_row_for_each_label_method_and_set_of_vectors(rows):
    expected = [(x, y, z) for x in LABELS for y in ("kNN", "probe") for z in FEATURES]
    assert [(row.label, row.method, row.features) for row in rows] == expected


def test_the_numbers_are_those_of_the_parts(rows):
    right, other = (
        knn_correct(vectors[~TEST], SHAPE[~TEST], vectors[TEST], SHAPE[TEST])
        for vectors in (FEATURES["trained"], FEATURES["untrained"])
    )
    assert rows[0].accuracy == accuracy_interval(right)
    assert rows[1].accuracy == accuracy_interval(other)
    assert rows[1].difference == difference_interval(right, other)
    assert (rows[0].classes, rows[0].num_train, rows[0].num_test) == (4, 160, 80)


def test_what_is_known_wins_and_what_is_not_known_does_not(rows):
    shape = [row for row in rows if row.label == "shape"]
    colour = [row for row in rows if row.label == "colour"]
    assert all(row.accuracy.value > 0.95 for row in shape if row.features == "trained")
    assert all(row.difference.low > 0 for row in shape if row.difference)
    assert all(row.difference.low < 0 < row.difference.high for row in colour if row.difference)
    assert all(row.accuracy.low < row.chance.value for row in colour)


def test_shuffled_labels_are_near_chance_even_where_the_true_ones_are_all_found(rows):
    assert all(row.shuffled.value < row.chance.value + 4 * np.sqrt(0.25 / 80) for row in rows)


def test_shuffled_labels_exceed_chance_as_seldom_as_the_interval_says():
    shape = {"shape": LABELS["shape"]}
    vectors = {"trained": FEATURES["trained"]}
    high = [not row.shuffled_at_chance for seed in range(30) for row in compare(vectors, shape, TEST, seed)]
    assert np.mean(high) < 0.1


def test_the_order_of_rows_decides_no_accuracy(rows):
    order = np.random.default_rng(1).permutation(240)
    features = {name: vectors[order] for name, vectors in FEATURES.items()}
    labels = {name: [values[i] for i in order] for name, values in LABELS.items()}
    again = compare(features, labels, TEST[order])
    assert [(row.accuracy, row.difference, row.chance) for row in again] == [
        (row.accuracy, row.difference, row.chance) for row in rows
    ]


def test_the_table_fits_100_columns_with_every_number_on_one_line(rows):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(rows))
    console.file.close()
    text = console.export_text()
    lines = [line for line in text.splitlines() if "[" in line and "interval" not in line]
    assert len(lines) == len(rows)
    assert "trained - it" in text
    for line, row in zip(lines, rows, strict=True):
        assert f"{100 * row.accuracy.value:.1f} [{100 * row.accuracy.low:.1f}, {100 * row.accuracy.high:.1f}]" in line
        if row.difference:
            difference = row.difference
            assert f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]" in line


def test_names_with_brackets_are_shown_as_they_are():
    features = {"[bold]x[/]": FEATURES["trained"]}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(compare(features, {"[red]": LABELS["shape"]}, TEST)))
    assert "[red]" in shown.get()
    assert "[bold]x[/]" in shown.get()


def test_the_dictionary_is_json(rows):
    read = json.loads(json.dumps(as_dict(rows)))
    assert read["first"] == "trained"
    assert read["rows"][0]["accuracy"] == {
        "value": rows[0].accuracy.value,
        "low": rows[0].accuracy.low,
        "high": rows[0].accuracy.high,
    }
    assert read["rows"][0]["difference"] is None
    assert read["rows"][1]["difference"]["low"] == rows[1].difference.low


def present(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.where(there[:, None], rows, np.nan)


def test_where_nothing_is_absent_there_is_one_table(rows):
    tables, reasons = compare_present(FEATURES, LABELS, TEST)
    assert tables == [rows]
    assert reasons == {}


def test_absent_samples_count_in_no_row_of_a_table():
    half = np.arange(240) < 120
    features = {"joint": FEATURES["trained"], "a": FEATURES["untrained"], "b": present(FEATURES["trained"], half)}
    whole, part = compare_present(features, LABELS, TEST)[0]
    assert whole == compare({"joint": features["joint"], "a": features["a"]}, LABELS, TEST)
    cut = {name: features[name][half] for name in ("joint", "b")}
    assert part == compare(cut, {name: values[:120] for name, values in LABELS.items()}, TEST[:120])


def test_sets_with_the_same_rows_share_a_table():
    half = np.arange(240) % 4 < 2
    features = {"joint": FEATURES["trained"]} | {
        name: present(FEATURES["untrained"], there) for name, there in (("a", half), ("b", ~half), ("c", half))
    }
    tables, _ = compare_present(features, LABELS, TEST)
    assert [list(dict.fromkeys(row.features for row in rows)) for rows in tables] == [
        ["joint"],
        ["joint", "a", "c"],
        ["joint", "b"],
    ]


def test_a_set_with_too_few_samples_is_told_and_the_others_stay():
    features = {"joint": FEATURES["trained"], "rare": present(FEATURES["untrained"], np.arange(240) < 3)}
    tables, reasons = compare_present(features, LABELS, TEST)
    assert len(tables) == 1
    assert list(reasons) == ["rare"]
    assert "classes with fewer than 2 rows" in reasons["rare"]


def test_vectors_that_are_not_finite_are_no_absent_ones():
    broken = FEATURES["trained"].copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="hold NaN or infinity"):
        compare_present({"joint": broken}, LABELS, TEST)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ({}, LABELS, "Can't compare 0 sets of vectors on 2 labels"),
        ({**FEATURES, "more": np.ones((7, 2))}, LABELS, r"The split has 240 rows, but \{'more': 7\}"),
        (FEATURES, {"shape": ["a", "b"]}, r"The split has 240 rows, but \{'shape': 2\}"),
        (FEATURES, {"shape": ["a"] * 240}, "Label 'shape' has 1 class"),
    ],
)
def test_what_cannot_be_compared_is_refused(features, labels, message):
    with pytest.raises(DataError, match=message):
        compare(features, labels, TEST)
