import io
import json

import pytest
from rich.console import Console

from mmim.data.loader import Unreadable
from mmim.training.tracker import SHOWN, Tracker


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


def tracker(folder, said, start=0, steps=4, *, main=True) -> Tracker:
    return Tracker(folder, start, steps, main=main, console=Console(file=said, width=200))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run(folder, said, start, stop, **options) -> Tracker:
    made = tracker(folder, said, start, **options)
    for step in range(start, stop):
        made.waited(1e-6)
        made.advance(8)
        made.log(step + 1, {"a/x": float(step), "b/y": 0.5}, lr=1e-3, grad_norm=2.0)
    made.stop()
    return made


def test_a_line_has_the_promised_keys(tmp_path, said):
    run(tmp_path, said, 0, 1)
    (line,) = lines(tmp_path)
    assert {"step", "loss", "lr", "samples_per_s", "data_wait", "grad_norm"} <= set(line)
    assert line["samples_per_s"] > 0
    assert 0 <= line["data_wait"] <= 1


def test_the_loss_is_the_sum_of_its_parts_unsmoothed(tmp_path, said):
    run(tmp_path, said, 0, 3)
    assert [line["loss"] for line in lines(tmp_path)] == [0.5, 1.5, 2.5]
    assert lines(tmp_path)[2]["a/x"] == 2.0


def test_a_resumed_run_forgets_the_lines_that_it_makes_again(tmp_path, said):
    run(tmp_path, said, 0, 4)
    run(tmp_path, said, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_line_cut_short_by_a_kill_does_not_stop_a_resumed_run(tmp_path, said):
    run(tmp_path, said, 0, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run(tmp_path, said, 2, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_other_processes_say_and_write_nothing(tmp_path, said):
    run(tmp_path, said, 0, 4, main=False).close([Unreadable("a.npy", "toy", "bad")])
    assert list(tmp_path.iterdir()) == []
    assert said.getvalue() == ""


def test_files_left_out_are_listed_with_their_reasons(tmp_path, said):
    bad = [Unreadable(f"{i:03}[b].npy", "toy", "not an array") for i in range(SHOWN + 3)]
    tracker = run(tmp_path, said, 0, 1)
    tracker.left_out(bad)
    tracker.close(bad)
    assert f"{SHOWN + 3} files could not be read" in said.getvalue()
    assert "000[b].npy: not an array" in said.getvalue()
    assert "and 3 more" in said.getvalue()
    rows = [json.loads(line) for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()]
    assert len(rows) == SHOWN + 3
    assert rows[0] == {"id": "000[b].npy", "modality": "toy", "reason": "not an array"}


def test_with_nothing_left_out_there_is_no_list(tmp_path, said):
    run(tmp_path, said, 0, 1).left_out([])
    assert not (tmp_path / "unreadable.jsonl").exists()
