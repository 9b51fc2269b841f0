from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from torch import nn

from mmim import parts
from mmim.errors import OptionError
from mmim.masking.random import RandomMasking
from mmim.parts import AXES, OTHER_COLUMNS, check_name, lookup, name_of, names, register
from tests.toy import Toy


@pytest.mark.parametrize(("axis", "name"), [(axis, name) for axis in AXES for name in names(axis)])
def test_every_installed_part_lies_on_its_axis_and_finds_its_name(axis, name):
    part = lookup(axis, name)
    assert part.axis == axis
    assert name_of(part) == name


def test_every_axis_has_a_part():
    assert [axis for axis in AXES if not names(axis)] == []


def test_a_part_of_a_script_is_found_by_its_name():
    assert lookup("modality", "toy") is Toy
    assert name_of(Toy) == "toy"
    assert "toy" in names("modality")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        OptionError, match=r"No masking is called 'tubes'; there are .*random.*tube.* Did you mean 'tube'\?"
    ):
        lookup("masking", "tubes")


def test_a_name_far_from_all_asks_for_the_package():
    with pytest.raises(OptionError, match="Is the package that brings it installed"):
        lookup("masking", "qqqq")


def test_a_part_without_a_name_says_how_to_give_it_one():
    @dataclass(frozen=True)
    class Mine(RandomMasking):
        pass

    with pytest.raises(OptionError, match=r"Mine has no name: add an entry point in the group 'mmim.masking'"):
        name_of(Mine)


@pytest.mark.parametrize("name", ["two words", "1st", "class", "keys", "a.b", "", "train", "_modules", "training"])
def test_a_name_that_can_not_be_a_module_is_refused(name):
    with pytest.raises(OptionError, match="can't be used: use letters, digits and _"):
        check_name(name)
    with pytest.raises(OptionError, match="can't be used"):
        register(name)(Toy)


@pytest.mark.parametrize("name", dir(nn.ModuleDict()))
def test_every_name_that_torch_refuses_is_refused(name):
    with pytest.raises(OptionError, match="can't be used"):
        check_name(name)


def test_a_reserved_name_is_refused_where_it_is_reserved():
    assert check_name("joint") == "joint"
    with pytest.raises(OptionError, match=r"The name 'joint' can't be used: .* and not id, joint, present\."):
        check_name("joint", OTHER_COLUMNS)


def test_what_stands_on_the_wrong_axis_is_refused(monkeypatch):
    found = {"wrong": EntryPoint("wrong", "mmim.masking.random:RandomMasking", "mmim.target")}
    monkeypatch.setattr(parts, "_entry_points", lambda axis: found)
    with pytest.raises(OptionError, match=r"The target 'wrong' is <class .*RandomMasking'>, and that is no target"):
        lookup("target", "wrong")


def test_a_module_that_raises_anything_is_a_line(monkeypatch, tmp_path):
    (tmp_path / "explodes.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(parts, "_entry_points", lambda axis: {"bad": EntryPoint("bad", "explodes:Bad", "mmim.target")})
    with pytest.raises(OptionError, match=r"'bad' can't be imported \(ZeroDivisionError: division by zero\): mend"):
        lookup("target", "bad")
