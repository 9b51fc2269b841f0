import pytest

from mmim.command import finish
from mmim.errors import OptionError


def failing(error: BaseException):
    def work() -> None:
        raise error

    return work


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        finish(failing(OptionError("Too\nlong.")))
    assert capsys.readouterr() == ("", "error: Too long.\n")


def test_an_interruption_exits_with_130(capsys):
    with pytest.raises(SystemExit, match="130"):
        finish(failing(KeyboardInterrupt()), "gone")
    assert capsys.readouterr().err == "gone\n"


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        finish(failing(ZeroDivisionError()))


def test_only_the_first_process_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="2"):
        finish(failing(OptionError("No.")))
    assert capsys.readouterr().err == ""
