import os

import pytest

from mmim.data.lists import listed_path
from mmim.data.sources import find_samples
from mmim.errors import DataError
from tests.toy import Toy
from tests.words import Words

TOY = {"toy": Toy()}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(data) -> list[str]:
    return [sample.id for sample in find_samples(data, TOY)]


def test_a_folder_is_searched_through_and_sorted(tmp_path):
    touch(tmp_path, "b.npy", "a/z.npy", "a/b/c.npy", "a.npy")
    assert found(tmp_path) == ["a.npy", "a/b/c.npy", "a/z.npy", "b.npy"]


def test_upper_case_suffixes_count_and_others_do_not(tmp_path):
    touch(tmp_path, "a.NPY", "b.Npy", "c.txt", "d", "npy")
    assert found(tmp_path) == ["a.NPY", "b.Npy"]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path, ".a.npy", ".git/b.npy", "c/.d/e.npy", "c/f.npy")
    assert found(tmp_path) == ["c/f.npy"]


def test_links_are_followed(tmp_path):
    touch(tmp_path, "elsewhere/a.npy", "data/b.npy")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "c.npy").symlink_to(tmp_path / "elsewhere" / "a.npy")
    assert found(tmp_path / "data") == ["b.npy", "c.npy", "linked/a.npy"]


def test_a_link_to_its_own_folder_ends(tmp_path):
    touch(tmp_path, "a.npy")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert found(tmp_path) == ["a.npy"]


def test_moving_the_data_changes_no_hash(tmp_path):
    touch(tmp_path, "one/a/b.npy", "two/a/b.npy")
    one, two = (find_samples(tmp_path / name, TOY)[0] for name in ("one", "two"))
    assert one.hash == two.hash
    assert one.sources != two.sources


def test_a_list_has_labels_spaces_commas_and_repetitions(tmp_path):
    touch(tmp_path, "d/a.npy", "b c.npy", "e,f.npy")
    (tmp_path / "list.txt").write_text(
        "d/a.npy 3\n\nb c.npy\t12\nd/a.npy 3\n  \ne,f.npy,7\nmissing.npy\nd/other.txt 1\n"
    )
    assert found(tmp_path / "list.txt") == ["b c.npy", "d/a.npy", "e,f.npy", "missing.npy"]


def test_paths_of_a_list_are_relative_to_it_or_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "lists/a.npy", "b.npy")
    (tmp_path / "lists" / "list.txt").write_text(f"a.npy 0\n../b.npy 1\n{tmp_path}/b.npy\n")
    monkeypatch.chdir(tmp_path / "lists")
    samples = find_samples(tmp_path / "lists" / "list.txt", TOY)
    assert [sample.id for sample in samples] == ["../b.npy", f"{tmp_path}/b.npy", "a.npy"]
    assert all(sample.sources["toy"].path.exists() for sample in samples)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.npy", "a.npy"),
        ("a.npy 3", "a.npy"),
        ("a.npy\t3", "a.npy"),
        ("a.npy,3", "a.npy"),
        ("a,b.npy", "a,b.npy"),
        ("a b.npy 3", "a b.npy"),
        ("  a.npy 3  ", "a.npy"),
        ("a.npy -1", "a.npy"),
        ("a.npy playing guitar", "a.npy"),
        ("a.npy,run", "a.npy"),
        ("a.npy, run", "a.npy"),
        ("a b.NPY\trun 3", "a b.NPY"),
        ("a.npy.gz", "a.npy.gz"),
        ("a.npy/b.npy 2", "a.npy/b.npy"),
        ("a.npy 3\r\n", "a.npy"),
        ("one\u2028two.npy 3", "one\u2028two.npy"),
        ("a.wav 3", "a.wav"),
        ("frames/a 0 120 3", "frames/a"),
        ("take 2.npy", "take 2.npy"),
        ("7", "7"),
        ("", ""),
    ],
)
def test_a_line_is_a_path_before_trailing_numbers(line, path):
    assert listed_path(line, [".npy"]) == path


def test_a_list_of_any_editor_is_read(tmp_path):
    touch(tmp_path, "a.npy", "b\u2028.npy", "c.npy")
    (tmp_path / "list.txt").write_bytes("\ufeffa.npy playing guitar\r\nb\u2028.npy 2\r\nc.npy,run".encode())
    assert found(tmp_path / "list.txt") == ["a.npy", "b\u2028.npy", "c.npy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.wav one\nb.txt 2\n",
            r"lists 2 files and none that toy can read \(\.npy\); the first is 'a\.wav one'\. Write",
        ),
        ("", r"lists 0 files and none that toy can read \(\.npy\)\. Write `path` or `path label` on each line"),
        (
            "a.wav 1\ngone.npy 2\nlost.npy 2\n",
            r"None of the 2 files .* is there; the first is .*/gone\.npy\. Write paths",
        ),
    ],
)
def test_a_list_of_nothing_is_refused_with_its_first_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        find_samples(tmp_path / "list.txt", TOY)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x81"])
def test_one_file_of_data_is_not_a_list(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"--data .*a\.npy is one file: give the folder that holds it \("):
        find_samples(tmp_path / "a.npy", TOY)


def test_every_modality_that_reads_a_suffix_gets_the_file(tmp_path):
    touch(tmp_path, "a.npy")
    (sample,) = find_samples(tmp_path, {"one": Toy(), "other": Toy()})
    assert list(sample.sources) == ["one", "other"]


def test_a_missing_place_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no .*nowhere\. Give --data a folder of files, or a text file"):
        find_samples(tmp_path / "nowhere", TOY)


def test_a_folder_without_readable_files_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(DataError, match=r"holds 2 files and none that toy can read \(\.npy\)"):
        find_samples(tmp_path, TOY)


def test_a_file_that_is_no_list_says_so(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"is not a text file.*--data takes a folder, or a list with a path per line"):
        find_samples(tmp_path / "a.bin", TOY)


def test_a_name_that_is_not_utf8_is_a_sample(tmp_path):
    (tmp_path / os.fsdecode(b"clip\xff.npy")).touch()
    assert find_samples(tmp_path, TOY)[0].hash > 0


@pytest.fixture
def several(tmp_path):
    (tmp_path / "a.words").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.words").write_text("alone\n")
    return tmp_path


def test_the_rows_of_a_file_are_samples_and_a_file_with_one_is_its_own(several):
    samples = find_samples(several, {"words": Words()})
    assert [sample.id for sample in samples] == ["a.words#0", "a.words#1", "a.words#2", "b.words"]
    assert [sample.sources["words"].row for sample in samples] == [0, 1, 2, None]
    assert len({sample.hash for sample in samples}) == 4


def test_a_file_with_several_samples_is_data_by_itself(several):
    assert [sample.id for sample in find_samples(several / "a.words", {"words": Words()})] == [
        "a.words#0",
        "a.words#1",
        "a.words#2",
    ]


def test_a_list_of_files_is_no_file_with_several_samples(several):
    (several / "list.words").write_text("b.words 3\na.words 1\n")
    assert [sample.id for sample in find_samples(several / "list.words", {"words": Words()})] == [
        "a.words#0",
        "a.words#1",
        "a.words#2",
        "b.words",
    ]


def test_a_file_whose_rows_cannot_be_told_is_one_sample_until_it_is_read(several):
    (several / "broken.words").write_bytes(b"\xff\xfe")
    assert "broken.words" in [sample.id for sample in find_samples(several, {"words": Words()})]
    with pytest.raises(DataError, match=r"--data .*broken\.words can't be used: no text\."):
        find_samples(several / "broken.words", {"words": Words()})


def test_a_sample_is_as_long_as_its_longest_modality(several):
    (several / "a.words").write_text("one\none two three\n")
    samples = find_samples(several, {"words": Words()})
    assert [sample.length({"words": Words()}) for sample in samples] == [1, 3, 1]


def test_a_file_of_long_lines_is_no_list(several):
    (several / "long.words").write_text("\n".join(["word " * 300] * 3))
    assert len(find_samples(several / "long.words", {"words": Words()})) == 3


def test_a_list_of_files_that_are_gone_is_still_a_list(several):
    (several / "list.words").write_text("gone/x.words great label\ngone/y.words,0\n")
    with pytest.raises(DataError, match=r"None of the 2 files .* is there; the first is .*gone/x\.words"):
        find_samples(several / "list.words", {"words": Words()})
