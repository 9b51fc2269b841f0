import pytest

from mmim.errors import DataError
from mmim.evaluation.tables import read_table


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_folder_means_its_index_whose_first_column_is_the_file_whatever_its_name(tmp_path):
    write(tmp_path / "index.csv", 'mesh,id,caption\r\nb.ply,7,"a, ""b""\nand c"\r\na.ply,8,\r\n')
    table = read_table(tmp_path)
    assert table.path == tmp_path / "index.csv"
    assert table.keys == ("b.ply", "a.ply")
    assert table.columns == {"id": ("7", "8"), "caption": ('a, "b"\nand c', "")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "digit,path\n3,a/b.mp4\n4,c.mp4\n"),
        ("train.tsv", "digit\tfile\n3\ta/b.mp4\n4\tc.mp4\n"),
        ("train.jsonl", '{"id": "a/b.mp4", "digit": 3}\n\n{"id": "c.mp4", "digit": "4"}\n'),
    ],
)
def test_a_manifest_names_its_file_column_id_file_or_path(tmp_path, name, text):
    table = read_table(write(tmp_path / name, text))
    assert table.keys == ("a/b.mp4", "c.mp4")
    assert table.columns == {"digit": ("3", "4")}


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path):
    table = read_table(
        write(tmp_path / "train.jsonl", '{"id": "a", "text": "one\u2028two", "happy": true, "sad": null}\n')
    )
    assert table.columns == {"text": ("one\u2028two",), "happy": ("true",), "sad": ("",)}


def test_a_field_that_some_records_lack_is_empty_there(tmp_path):
    table = read_table(write(tmp_path / "train.jsonl", '{"id": "a"}\n{"id": "b", "digit": 4}\n'))
    assert table.columns == {"digit": ("", "4")}


@pytest.mark.parametrize("name", ["train.txt", "train.csv", "train.list"])
def test_a_list_has_path_and_label_as_videomae_reads_it(tmp_path, name):
    table = read_table(write(tmp_path / name, "clips/a.mp4 3\n\nmy clip 1.mp4  4\nc.mp4\t5\n"))
    assert table.keys == ("clips/a.mp4", "my clip 1.mp4", "c.mp4")
    assert table.columns == {"label": ("3", "4", "5")}


def test_a_list_may_have_a_number_between_path_and_label(tmp_path):
    table = read_table(write(tmp_path / "train.txt", "clips/a.mp4 0 -1\nb.webm 300 12\n"))
    assert table.keys == ("clips/a.mp4", "b.webm")
    assert table.columns == {"label": ("-1", "12")}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    table = read_table(write(tmp_path / "train.csv", "\ufefffile,digit\na.mp4,3\n"))
    assert table.keys == ("a.mp4",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "is empty: write one row per sample"),
        ("t.csv", "file,digit\n", "has a header and no rows"),
        ("t.csv", "file,digit\na.mp4,3\nb.mp4,4,5\n", r"line 3: 3 cells, but the header has 2 \(file, digit\)"),
        ("t.csv", "file,digit,digit\na.mp4,3,4\n", "names a column twice"),
        ("t.csv", "clip,digit\na.mp4,3\n", r"No column of .* it has clip, digit. Call one of them id or file or path"),
        ("t.jsonl", '{"id": "a"}\n{"id": \n', "line 2: not JSON"),
        ("t.jsonl", "[1, 2]\n", r"line 1: '\[1, 2\]' is not an object"),
        ("t.txt", "a.mp4 3\nb.mp4\n", "line 2: 'b.mp4' has no label. Write `path label`"),
    ],
)
def test_a_table_that_cannot_be_read_says_where_and_why(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / name, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"No label table at .*index\.csv: give a folder"):
        read_table(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="It must be a text file in UTF-8"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("line", "key", "label"),
    [
        ("a.mp4 playing guitar", "a.mp4", "playing guitar"),
        ("my clips/a b.mp4\tjump rope", "my clips/a b.mp4", "jump rope"),
        ("a.mp4,run", "a.mp4", "run"),
        ("a.b.mp4 3", "a.b.mp4", "3"),
    ],
)
def test_a_label_in_words_is_whole(tmp_path, line, key, label):
    (tmp_path / "list.txt").write_text(line + "\n")
    table = read_table(tmp_path / "list.txt")
    assert (table.keys, table.columns["label"]) == ((key,), (label,))


def test_lines_without_a_name_are_samples_by_their_number(tmp_path):
    table = read_table(
        write(tmp_path / "train.jsonl", '{"text": "a", "intent": "x"}\n\n{"text": "b", "intent": "y"}\n')
    )
    assert table.keys == ("train.jsonl#0", "train.jsonl#1")  # blank lines are no samples
    assert table.columns["intent"] == ("x", "y")


def test_a_line_ends_where_its_reader_ends_it(tmp_path):
    table = read_table(write(tmp_path / "train.jsonl", '{"text": "a",\r"x": 1}\r\n\v\n{"x": 2}\n'))
    assert table.columns["x"] == ("1", "2")
    assert table.keys == ("train.jsonl#0", "train.jsonl#1")


def test_a_table_that_nests_without_end_is_refused(tmp_path):
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_table(write(tmp_path / "train.jsonl", "[" * 100_000))
