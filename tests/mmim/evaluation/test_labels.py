from pathlib import Path

import numpy as np
import pytest

from mmim.errors import DataError, OptionError
from mmim.evaluation.labels import check_classes, find_labels
from mmim.evaluation.tables import LabelTable, read_table

IDS = [f"clips/{i:03d}.mp4" for i in range(80)]


def table(keys=IDS, path=Path("data/index.csv"), **columns):
    columns = columns or {"digit": [i % 4 for i in range(len(keys))], "fold": [i % 5 for i in range(len(keys))]}
    return LabelTable(path, tuple(keys), {name: tuple(map(str, cells)) for name, cells in columns.items()})


def test_labels_follow_the_ids_not_the_order_of_the_table():
    found = find_labels(table(), IDS[::-1], ["digit"])
    assert found.rows.tolist() == list(range(80))
    assert found.values == {"digit": [str(i % 4) for i in range(80)][::-1]}


@pytest.mark.parametrize(
    "key",
    [lambda i: f"clips/{i}", lambda i: f"clips/{i}.mp4", lambda i: f"./clips/{i}.mp4"],
    ids=["stem", "file", "with a dot"],
)
def test_an_index_may_name_files_with_or_without_suffix(key):
    keys = [key(f"{i:03d}.take.1") for i in range(80)]
    found = find_labels(table(keys), [f"clips/{i:03d}.take.1.mp4" for i in range(80)], ["digit"])
    assert found.left_out == 0


def test_ids_may_be_the_stems_of_files_in_the_index():
    assert find_labels(table(), [one.removesuffix(".mp4") for one in IDS], ["digit"]).left_out == 0


def test_rows_of_a_container_are_not_matched_by_the_stem_of_the_container():
    with pytest.raises(
        DataError, match=r"None of the 2 samples is in .* named like 'clouds', the samples like 'clouds.npz#0'"
    ):
        find_labels(table(["clouds"]), ["clouds.npz#0", "clouds.npz#1"], ["digit"])


@pytest.mark.parametrize("absolute", [True, False])
def test_paths_of_a_list_elsewhere_are_seen_from_the_data_folder(tmp_path, absolute):
    written = [str(tmp_path / "data" / one) if absolute else f"../data/{one}" for one in IDS]
    lists = tmp_path / "lists" / "train.txt"
    lists.parent.mkdir()
    lists.write_text("".join(f"{one} {i % 4}\n" for i, one in enumerate(written)))
    assert find_labels(read_table(lists), IDS, ["label"], root=tmp_path / "data").left_out == 0


def test_samples_without_the_label_are_left_out_and_counted():
    digits = ["" if i < 8 else i % 4 for i in range(76)]
    found = find_labels(table(IDS[:76], digit=digits), IDS, ["digit"])
    assert found.rows.tolist() == list(range(8, 76))
    assert found.left_out == 12


def test_split_makes_the_rows_with_the_value_the_test():
    found = find_labels(table(), IDS, ["digit"], split="fold=4")
    np.testing.assert_array_equal(found.test, np.arange(80) % 5 == 4)


def test_without_split_about_a_quarter_is_the_test():
    ids = [f"{i}.mp4" for i in range(4000)]
    assert find_labels(table(ids), ids, ["digit"]).test.mean() == pytest.approx(0.25, abs=0.02)


def test_without_split_a_sample_keeps_its_side_whoever_else_is_there():
    everyone = find_labels(table(), IDS, ["digit"]).test
    some = find_labels(table(), IDS[10:70], ["digit"]).test
    np.testing.assert_array_equal(some, everyone[10:70])


def test_without_split_the_files_of_one_scene_are_on_one_side():
    sound = [one.replace(".mp4", ".wav") for one in IDS]
    here, there = (find_labels(table(ids), ids, ["digit"]).test for ids in (IDS, sound))
    np.testing.assert_array_equal(here, there)


def test_a_file_listed_twice_with_one_label_is_fine():
    assert find_labels(table([*IDS, *IDS], digit=[i % 4 for i in range(80)] * 2), IDS, ["digit"]).left_out == 0


def test_a_file_listed_twice_with_two_labels_is_refused():
    with pytest.raises(DataError, match=r"names 'clips/000.mp4' twice, with digit '0' and '9'. Keep one"):
        find_labels(table([*IDS, IDS[0]], digit=[*(i % 4 for i in range(80)), 9]), IDS, ["digit"])


def test_an_unknown_label_lists_the_columns_there_are():
    with pytest.raises(OptionError, match=r"No column 'colour' in data/index.csv. It has: digit, fold"):
        find_labels(table(), IDS, ["colour"])


def test_an_unknown_split_column_lists_the_columns_there_are():
    with pytest.raises(OptionError, match=r"No column 'part' in data/index.csv. It has: digit, fold"):
        find_labels(table(), IDS, ["digit"], split="part=test")


@pytest.mark.parametrize("split", ["fold", "fold=", "=4"])
def test_a_split_of_another_form_is_refused(split):
    with pytest.raises(OptionError, match=f"Can't split by '{split}': write --split COLUMN=VALUE"):
        find_labels(table(), IDS, ["digit"], split=split)


def test_a_split_value_that_is_nowhere_lists_the_values_there_are():
    with pytest.raises(
        OptionError, match=r"column 'fold' of data/index.csv is never '7' .* It has: '0', '1', '2', '3', '4'"
    ):
        find_labels(table(), IDS, ["digit"], split="fold=7")


def test_no_match_shows_an_example_of_both_sides():
    with pytest.raises(DataError, match=r"its 80 rows are named like 'clips/000.mp4', the samples like 'a/0.mp4'"):
        find_labels(table(), ["a/0.mp4", "a/1.mp4"], ["digit"])


def test_a_label_that_is_empty_everywhere_is_refused():
    with pytest.raises(DataError, match="No sample has all labels digit"):
        find_labels(table(digit=[""] * 80), IDS, ["digit"])


@pytest.mark.parametrize(
    ("values", "test", "message"),
    [
        ("aaaa", "0101", r"Label 'digit' has 1 class in 4 rows \('a'\)"),
        ("aabbc", "01010", r"has 1 of 3 classes with fewer than 2 rows \('c'\)"),
        ("aabb", "0000", "All 4 rows with label 'digit' are on the training side"),
        ("aabb", "1111", "All 4 rows with label 'digit' are on the test side"),
        ("aabb", "0011", r"its training rows have 1 of 2 classes \('a'\)"),
        ("aabbcc", "000011", r"its training rows have 2 of 3 classes \('a', 'b'\)"),
    ],
)
def test_a_label_that_cannot_be_learned_is_refused(values, test, message):
    with pytest.raises(DataError, match=message):
        check_classes("digit", list(values), np.array([side == "1" for side in test]))


def test_samples_with_ids_of_their_own_are_found_by_their_lines(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        "".join(f'{{"id": {i}, "text": "t", "intent": "{"xy"[i % 2]}"}}\n' for i in range(8))
    )
    found = find_labels(read_table(tmp_path / "t.jsonl"), [f"t.jsonl#{i}" for i in range(8)], ["intent"], None, None)
    assert found.left_out == 0
