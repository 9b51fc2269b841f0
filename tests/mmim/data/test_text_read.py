import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmim.data import text_read
from mmim.data.text_read import count_lines, field_of, line_bytes, read_line, read_whole
from mmim.errors import ReadError


@pytest.fixture(autouse=True)
def nothing_remembered():
    text_read._indices.clear()


def write(path, data):
    path.write_bytes(data)
    return path


def plain(data):
    """The non-blank lines, without any cleverness."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.decode().strip() for line in lines if line.strip(b" \t\n\r\v\f")]


def random_text(rng, size):
    """Words, blank lines, ends of both kinds, characters of one to four bytes."""
    parts = ["a", "é", "𝄞", "中", " ", "\t", "\n", "\n", "\r\n", "\n \n", "\u2028", "longer words "]
    return "".join(rng.choice(parts) for _ in range(size)).encode()


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 2**20])
def test_lines_are_those_of_a_plain_reading_whatever_the_block(block, tmp_path, monkeypatch):
    monkeypatch.setattr(text_read, "BLOCK", block)
    rng = random.Random(block)
    for number in range(40):
        bom = b"\xef\xbb\xbf" if number % 3 == 0 and block >= 3 else b""
        data = bom + b"x\n" + random_text(rng, rng.randrange(60))
        path = write(tmp_path / f"{number}.txt", data)
        expected = plain(data)
        assert count_lines(path) == len(expected)
        assert [read_line(path, row) for row in range(len(expected))] == expected


def test_a_byte_order_mark_and_carriage_returns_are_no_text(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbffirst\r\n\r\n  \r\nsecond\r\nthird")
    assert [read_line(path, row) for row in range(count_lines(path))] == ["first", "second", "third"]


def test_text_is_not_normalised(tmp_path):
    path = write(tmp_path / "a.txt", "e\u0301 É\n".encode())
    assert read_line(path, None) == "e\u0301 É"


def test_the_only_line_needs_no_number(tmp_path):
    path = write(tmp_path / "a.txt", b"\n\n only \n\n")
    assert read_line(path, None) == read_line(path, 0) == "only"


@pytest.mark.parametrize(
    ("data", "row", "reason"),
    [
        (b"", None, "^empty file$"),
        (b"", 3, "^empty file$"),
        (b"\xef\xbb\xbf", None, "^nothing but blank lines$"),
        (b" \r\n\t\n", None, "^nothing but blank lines$"),
        (b"one\ntwo\n", None, "^2 lines, and no one of them is asked for$"),
        (b"one\ntwo\n", 2, "^no line 2: there are 2, counted from 0$"),
        (b"one\ntwo\n", -1, "^no line -1: there are 2"),
        (b"one\n" + b"x" * 1_000_001 + b"\nthree", 1, "^a line of more than 1,000,000 bytes$"),
        (b"one\ncaf\xe9 au lait\n", 1, r"^not UTF-8: byte 3 \(0xe9\), invalid continuation byte$"),
        (b"one\ncaf\xc3\n", 1, r"^not UTF-8: byte 3 \(0xc3\), unexpected end of data$"),
        ("eins\nzwei\n".encode("utf-16"), None, "^not UTF-8: it begins as UTF-16 does$"),
        ("eins\nzwei\n".encode("utf-16-le"), None, "^binary: byte 1 is zero$"),
        (b"x\n" * 5000 + b"y\0\n", 5000, "^byte 1 is zero$"),
    ],
)
def test_what_can_not_be_read_gives_its_reason(data, row, reason, tmp_path):
    path = write(tmp_path / "a.txt", data)
    with pytest.raises(ReadError, match=reason):
        read_line(path, row)


def test_a_line_that_is_no_text_spoils_no_other(tmp_path):
    path = write(tmp_path / "a.txt", b"one\n\xff\xff\nthree\n" + b"x" * 3_000_000 + b"\nfive\n")
    assert count_lines(path) == 5
    assert [read_line(path, row) for row in (0, 2, 4)] == ["one", "three", "five"]


def test_the_longest_line_is_read_and_the_next_longer_is_not(tmp_path):
    path = write(tmp_path / "a.txt", b"a" * 1_000_000 + b"\r\n\n\n" + b"b" * 1_000_001)
    assert len(read_line(path, 0)) == 1_000_000
    with pytest.raises(ReadError, match="a line of more than"):
        read_line(path, 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "^can't be read: No such file or directory$"),
        (lambda path: path.mkdir(), "^can't be read: Is a directory$"),
        (lambda path: path.symlink_to("gone"), "^can't be read: No such file or directory$"),
    ],
    ids=["missing", "folder", "dangling"],
)
def test_a_file_that_can_not_be_opened_gives_its_reason(make, reason, tmp_path):
    make(tmp_path / "a.txt")
    for read in (count_lines, read_whole, lambda path: read_line(path, 0)):
        with pytest.raises(ReadError, match=reason):
            read(tmp_path / "a.txt")
    assert line_bytes(tmp_path / "a.txt", 0) == 0


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    path = write(tmp_path / "a.txt", b"one\ntwo\n")
    assert count_lines(path) == 2
    write(path, b"one\ntwo\nthree\n")
    assert count_lines(path) == 3
    assert read_line(path, 2) == "three"


def test_a_file_is_scanned_once_and_what_is_remembered_is_bounded(tmp_path, monkeypatch):
    scanned = []
    scan = text_read._scan
    monkeypatch.setattr(text_read, "_scan", lambda path: scanned.append(path.name) or scan(path))
    monkeypatch.setattr(text_read, "KEPT", 8)
    for name in "abc":
        write(tmp_path / name, b"1\n2\n3\n")
    for name in "aabbabc":
        read_line(tmp_path / name, 2)
    assert scanned == ["a", "b", "c"]
    read_line(tmp_path / "b", 0)
    read_line(tmp_path / "a", 0)
    assert scanned == ["a", "b", "c", "a"]  # the one that was used longest ago was forgotten


def test_a_file_with_more_lines_than_are_kept_stays_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(text_read, "KEPT", 2)
    path = write(tmp_path / "a.txt", b"1\n2\n3\n")
    count_lines(path)
    assert len(text_read._indices) == 1


def test_the_length_of_a_line_is_about_its_bytes(tmp_path):
    path = write(tmp_path / "a.txt", b"one\nlonger\n\n\nlast")
    assert [line_bytes(path, row) for row in range(4)] == [4, 9, 4, 0]


def test_a_whole_file_is_one_text(tmp_path):
    assert read_whole(write(tmp_path / "a.txt", b"\xef\xbb\xbfone\n\ntwo\n")) == "one\n\ntwo"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^empty file$"),
        (b"\n \n", "^nothing but blank lines$"),
        (b"a\n" * 500_001, "^more than 1,000,000 bytes: read it line by line$"),
        (b"a\0b", "^binary: byte 1 is zero$"),
        (b"caf\xe9", "^not UTF-8: byte 3"),
    ],
)
def test_a_whole_file_that_can_not_be_read_gives_its_reason(data, reason, tmp_path):
    with pytest.raises(ReadError, match=reason):
        read_whole(write(tmp_path / "a.txt", data))


def test_a_field_of_an_object_is_read():
    line = json.dumps({"id": 3, "caption": " a dog \u2028", "n": None})
    assert field_of(line, "caption") == "a dog"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "^not JSON: Expecting property name"),
        ("[" * 100_000, "^not JSON: "),
        ('{"text": ' + "9" * 9999 + "}", "^not JSON: Exceeds the limit"),
        ("[1]", "^a JSON list where an object with the field 'text' should be$"),
        ('{"caption": "a", "n": 1}', "^no field 'text'; there are 'caption', 'n'$"),
        ("{}", "^no field 'text'; there are none$"),
        ('{"text": 3}', "^the field 'text' is of type int, not a string$"),
        ('{"text": null}', "^the field 'text' is of type NoneType"),
        ('{"text": " "}', "^the field 'text' is blank$"),
        ('{"text": "a \\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_field_that_can_not_be_read_gives_its_reason(line, reason):
    with pytest.raises(ReadError, match=reason) as caught:
        field_of(line, "text")
    assert len(str(caught.value)) < 160


MEMORY = """
import sys
from pathlib import Path
from mmim.data.text_read import count_lines, read_line
def peak():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
count_lines(Path(sys.argv[1]).with_name("small.txt"))
Path("/proc/self/clear_refs").write_text("5")
before = peak()
path = Path(sys.argv[1])
print(count_lines(path))
try:
    read_line(path, 1)
except Exception as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to ask for the peak memory")
def test_a_line_of_100_megabytes_is_never_held(tmp_path):
    write(tmp_path / "small.txt", b"one\n")
    with (tmp_path / "large.txt").open("wb") as file:
        file.write(b"one\n")
        for _ in range(100):
            file.write(b"word " * 200_000)
        file.write(b"\nthree\n")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "large.txt")], capture_output=True, text=True)
    lines, reason, megabytes = done.stdout.splitlines()
    assert (lines, reason) == ("3", "a line of more than 1,000,000 bytes")
    assert int(megabytes) < 40, done.stderr


def test_places_beyond_four_gigabytes_fit():
    starts, line, blank = text_read._lines_of(np.frombuffer(b"a\nb", np.uint8), 2**33, 2**33, True)
    assert (starts.tolist(), line, blank) == ([2**33], 2**33 + 2, False)
