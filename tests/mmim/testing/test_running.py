"""Running checks: waivers, and what a failure says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from mmim.errors import DataError, OptionError
from mmim.masking.random import RandomMasking
from mmim.testing import MODALITY_CHECKS, CheckFailure, Outcome, depicted, example, run, run_all
from mmim.testing.example import readable
from mmim.testing.reading import another_draw_gives_another_view, the_evaluation_view_is_always_the_same
from tests.mmim.testing.test_checks import NothingRandom, Sound

WAIVER = {"another_draw_gives_another_view": "the toy is never cropped"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return depicted(Sound(), tmp_path_factory.mktemp("files"))


def test_a_failure_says_what_was_expected_what_came_and_where_to_look(files):
    with pytest.raises(CheckFailure) as caught:
        run(another_draw_gives_another_view, NothingRandom(), files)
    assert caught.value.look_at == "NothingRandom.read"
    assert str(caught.value) == (
        "NothingRandom.read: expected views that differ with the draw; came one view for 8 draws of every file."
    )


def test_a_waiver_lets_a_check_fail_and_no_other(files):
    run(another_draw_gives_another_view, NothingRandom(), files, WAIVER)
    with pytest.raises(CheckFailure):
        run(another_draw_gives_another_view, NothingRandom(), files, {"one_batch_can_be_learnt": "it is noise"})


def test_a_waiver_that_is_not_needed_fails(files):
    with pytest.raises(CheckFailure, match=r"since it is waived \(the toy is never cropped\); came a pass: remove"):
        run(another_draw_gives_another_view, Sound(), files, WAIVER)


def test_a_waiver_gives_a_reason(files):
    with pytest.raises(OptionError, match="gives no reason"):
        run(another_draw_gives_another_view, NothingRandom(), files, {"another_draw_gives_another_view": " "})


def test_a_waiver_of_no_check_is_refused(files):
    with pytest.raises(OptionError, match="names the check 'another_view'"):
        run_all(MODALITY_CHECKS, Sound(), files, {"another_view": "a slip of the pen"})


def test_all_outcomes_are_collected(files):
    class Crashes(NothingRandom):
        def read(self, source, draw):
            return super().read(source, draw) if draw is not None else [][0]

    checks = [another_draw_gives_another_view, the_evaluation_view_is_always_the_same]
    waived, failed = run_all(checks, Crashes(), files, WAIVER)
    assert waived == Outcome("another_draw_gives_another_view", "waived", "the toy is never cropped")
    assert (failed.result, failed.came) == ("failed", "IndexError: list index out of range")
    line = Crashes.read.__code__.co_firstlineno + 1
    assert failed.look_at == f"{__file__}:{line}, in read"
    assert run_all(checks, Sound(), files) == [Outcome(check.__name__, "passed") for check in checks]


def test_an_example_needs_three_files_that_can_be_read(files, tmp_path):
    with pytest.raises(DataError, match="at least 3 files"):
        example(Sound(), files[:2])
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(CheckFailure, match=r"came text\.npy: not an array"):
        readable(Sound(), [tmp_path / "text.npy"])


def test_checks_leave_torchs_generator_as_it_was(files):
    before = torch.get_rng_state()
    run_all(MODALITY_CHECKS, Sound(), files)
    assert torch.equal(before, torch.get_rng_state())


class Waives(NothingRandom):
    waivers: ClassVar[Mapping[str, str]] = WAIVER


@dataclass(frozen=True, kw_only=True)
class WaivesByField(Sound):
    random: bool = True

    @property
    def waivers(self):
        return {} if self.random else WAIVER

    def read(self, source, draw):
        return super().read(source, draw if self.random else None)


@pytest.mark.parametrize("part", [Waives(), WaivesByField(random=False), WaivesByField()], ids=str)
def test_a_part_waives_by_itself(part, files):
    run(another_draw_gives_another_view, part, files)


def test_waivers_that_are_given_replace_the_parts_own(files):
    with pytest.raises(CheckFailure, match="one view for 8 draws"):
        run(another_draw_gives_another_view, Waives(), files, {})


def test_files_for_a_part_that_reads_none_are_refused(files):
    with pytest.raises(OptionError, match="The checks of a masking read no files, and 4 are given"):
        run(another_draw_gives_another_view, RandomMasking(), files)
