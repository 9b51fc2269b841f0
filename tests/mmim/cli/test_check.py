"""`mmim check`: a part's checks as a table, its mistakes as one line."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mmim import parts
from mmim.cli.main import main
from mmim.draw import Draw
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.modality import MaskingPolicy, Modality, Target
from mmim.parts import register
from mmim.targets.pixels import Pixels
from mmim.testing import MASKING_CHECKS, MODALITY_CHECKS
from tests.toy import Toy

ALL = len(MODALITY_CHECKS)


def check(*arguments, capsys):
    """Exit code, output and errors of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def passes(*arguments, capsys):
    """The output of a command that ends by itself."""
    main(["check", *arguments])
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Parts of this file are known by their names only in its tests."""
    monkeypatch.setattr(parts, "_registered", dict(parts._registered))
    for name, part in PARTS.items():
        register(name)(part)


@dataclass(frozen=True, kw_only=True)
class Drawn(Toy):
    """A toy that depicts."""

    masking: ClassVar[MaskingPolicy] = TubeMasking()
    target: ClassVar[Target] = Pixels()

    def depict(self, scene: Any, path: Any) -> None:
        np.save(path, scene.nuisance("toy").normal(size=(self.rows, self.columns)).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Breaks(Drawn):
    """One method that raises, one that lies, and one waiver."""

    waivers: ClassVar[dict[str, str]] = {"another_draw_gives_another_view": "a toy is never cropped"}

    def read(self, source, draw):
        return super().read(source, None)

    def features(self, raw):
        return {}["features"]

    def grid(self):
        return 2, 4


class NeverDrawn(Toy):
    masking = TubeMasking()
    target = Pixels()


class BreaksDepict(Drawn):
    def depict(self, scene, path):
        raise KeyError("lens")


@dataclass(frozen=True, kw_only=True)
class Sized(RandomMasking):
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Turning(RandomMasking):
    by: int = 0
    sides: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.by < 0:
            raise ValueError("by is negative")

    def rank(self, tokens, draw: Draw, hint=None):
        ranks = super().rank(tokens, draw)
        return ranks if self.by < 2 else torch.rand(ranks.shape)


class AlsoTarget(Pixels):
    pass


PARTS = {
    "drawn": Drawn,
    "breaks": Breaks,
    "never_drawn": NeverDrawn,
    "breaks_depict": BreaksDepict,
    "sized": Sized,
    "turning": Turning,
    "twice": Turning,
}


def test_a_sound_modality_passes_every_check(capsys):
    said = passes("drawn", capsys=capsys)
    assert f"modality drawn: {ALL} checks on 4 files" in said
    assert all(f"{check.__name__} " in said for check in MODALITY_CHECKS)
    assert f"{ALL} passed, 0 waived, 0 failed" in said


def test_a_broken_modality_is_told_what_was_expected_what_came_and_where_to_look(capsys):
    code, said, error = check("breaks", capsys=capsys)
    assert code == 2
    assert error == (
        f"error: The modality 'breaks' fails 2 of {ALL} checks: tokens_have_the_declared_shapes, "
        "features_are_finite_vectors.\n"
    )
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "another_draw_gives_another_view waived a toy is never cropped" in lines
    at = lines.index("tokens_have_the_declared_shapes failed")
    assert lines[at + 1 : at + 4] == ["expected (4, 2), the grid of its tokens", "came (2, 4)", "look at Breaks.grid"]
    at = lines.index("features_are_finite_vectors failed")
    assert lines[at + 1 : at + 3] == ["expected no exception", "came KeyError: 'features'"]
    line = Breaks.features.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}, in features" in "".join(lines[at + 3 : at + 5]).replace("look at ", "")
    assert "Traceback" not in said + error
    assert f"{ALL - 3} passed, 1 waived, 2 failed" in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_policy_is_checked_without_files(capsys):
    said = passes("turning", "--set", "by=1", "sides=3,4,5", capsys=capsys)
    assert f"masking turning: {len(MASKING_CHECKS)} checks\n" in said
    code, _, error = check("turning", "--set", "by=2", capsys=capsys)
    assert code == 2
    assert "the_same_draw_gives_the_same_ranks" in error


def test_files_of_ones_own_are_taken(tmp_path, capsys):
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(8, 4)).astype(np.float32))
    (tmp_path / "00.npy").write_text("no array")
    assert f"{ALL} checks on 4 files" in passes("never_drawn", "--data", str(tmp_path), capsys=capsys)


def test_too_few_files_are_one_line(tmp_path, capsys):
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.zeros((8, 4), np.float32))
    (tmp_path / "damaged.npy").write_text("no array")
    code, _, error = check("drawn", "--data", str(tmp_path), capsys=capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert "of the first 3 files 2 can be read, and the checks need 3" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["never_drawn"], "'never_drawn' has no method `depict(scene, path)`"),
        (["breaks_depict"], "BreaksDepict.depict breaks (KeyError: 'lens'): mend it, or give --data"),
        (["tubes"], "decoder: causal, cross_attention, linear, local_attention, self_attention; term: contrastive, "),
        (["tubes"], "Did you mean 'tube'?"),
        (["joint"], "'joint' is a part of the axis encoder, and there are checks of modality, masking, target"),
        (["tube", "--axis", "target"], "No target is called 'tube'; there are chamfer, hog, ids, pixels"),
        (["tube", "--axis", "encoder"], "Expected one of"),
        (["cell", "--set", "size=3"], "the fields of 'cell' are cell."),
        (["cell", "--set", "cell"], "write FIELD=VALUE; the fields of 'cell' are cell."),
        (["cell", "--set", "cell=two"], "cell.cell is 'two'; it must be of type int."),
        (["cell", "--set", "cell=0"], "CellMasking.cell is 0; it must be at least 1."),
        (["cell", "--set", "cell=[1"], "'[1' can't be read as a value"),
        (["turning", "--set", "by=-1"], "The masking 'turning' can't be made: ValueError: by is negative."),
        (["sized"], "'sized' has no default for its field 'sizes': give it with --set sizes=VALUE."),
        (["tube", "--data", "somewhere"], "--data with the masking 'tube': its checks read no files"),
        (["drawn", "--data", "nowhere/at/all"], "nowhere/at/all"),
        (["twice"], "'twice' is a masking and a target: say which with --axis."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments, said, capsys):
    register("twice")(AlsoTarget)
    code, out, error = check(*arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert said in error


def test_required_fields_are_given(capsys):
    assert "0 failed" in passes("sized", "--set", "sizes=3,4", capsys=capsys)


def test_a_modality_that_can_not_learn_of_its_files_fails_its_checks(capsys):
    class Unprepared(Drawn):
        def prepare(self, sources) -> Modality:
            raise ZeroDivisionError("no words")

    register("unprepared")(Unprepared)
    code, said, error = check("unprepared", capsys=capsys)
    assert code == 2
    assert f"0 passed, 0 waived, {ALL} failed" in said
    assert "ZeroDivisionError: no words" in said
    assert "Traceback" not in said + error
