import pytest
import yaml

from mmim.config import to_plain
from mmim.errors import OptionError
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.options import merge, parse
from mmim.training.recipe import Recipe
from tests.toy import TOY, Toy

SIZES = {"small": {"encoder.width": 16}, "large": {"encoder.width": 32, "encoder.depth": 4}}
DEMO = {"size": "small", "batch": 4, "encoder.heads": 1}


def ask(*argv: str) -> Recipe:
    return parse(TOY, argv, SIZES, DEMO)


@pytest.fixture
def config(tmp_path):
    def write(**fields) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
        return str(tmp_path / "config.yaml")

    return write


def test_with_data_and_nothing_else_it_is_the_recipe():
    recipe = ask("--data", "somewhere")
    assert to_plain(recipe) == to_plain(TOY) | {"data": "somewhere"}


def test_without_data_it_is_the_demo():
    recipe = ask()
    assert (recipe.batch, recipe.encoder.width, recipe.encoder.heads, recipe.size) == (4, 16, 1, "small")


def test_a_size_is_above_the_recipe():
    recipe = ask("--data", "x", "--size", "large")
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.size) == (32, 4, "large")


def test_a_size_replaces_that_of_the_demo():
    recipe = ask("--size=large")
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.batch) == (32, 4, 4)


def test_a_config_is_above_size_and_demo(config):
    recipe = ask("--size", "large", "--config", config(encoder={"depth": 3}, batch=6))
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.batch) == (32, 3, 6)


def test_the_command_line_is_above_the_config(config):
    recipe = ask("--config", config(encoder={"depth": 3}, batch=6), "--encoder.depth", "5")
    assert (recipe.encoder.depth, recipe.batch) == (5, 6)


def test_a_config_may_name_data_and_size(config):
    recipe = ask("--config", config(data="somewhere", size="large"))
    assert (str(recipe.data), recipe.encoder.width, recipe.batch) == ("somewhere", 32, 8)


def test_a_written_recipe_is_a_config(config):
    asked = ask(
        "--data", "x", "--size", "large", "--masking.toy", "random", "--encoder.depth", "3", "--budget.ratio", "0.25"
    )
    again = parse(TOY, ["--config", config(**to_plain(asked))], SIZES, DEMO)
    assert to_plain(again) | {"config": None} == to_plain(asked)


@pytest.mark.parametrize("argv", [["--masking.toy", "random"], ["--masking.toy=random"]])
def test_a_part_is_exchanged_by_name(argv):
    assert ask(*argv).masking == {"toy": RandomMasking()}
    assert ask().masking == {"toy": TubeMasking()}


def test_a_config_exchanges_a_part_by_kind(config):
    assert ask("--config", config(masking={"toy": {"kind": "random"}})).masking == {"toy": RandomMasking()}


def test_the_exchanged_part_takes_options():
    assert ask("--budget", "ratio", "--budget.ratio", "0.25").budget.ratio == 0.25


def test_a_field_of_a_modality_is_an_option():
    assert ask("--modalities.toy.columns", "6").modalities["toy"] == Toy(columns=6)


@pytest.mark.parametrize("option", ["--micro-batch", "--micro_batch"])
def test_dashes_and_underscores_are_alike(option):
    assert ask(option, "2").micro_batch == 2


def test_the_last_value_wins():
    assert ask("--size", "small", "--size", "large").size == "large"


def test_flags_are_switched_off_with_no():
    assert ask("--no-resume").resume is False


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--encoder.dept", "6"], r"--encoder\.dept.*Did you mean --encoder\.depth.*--help` lists the options"),
        (["--sizee", "small"], r"--sizee.*Did you mean --size"),
        (["stray"], r"stray"),
        (["--encoder.depth", "six"], r"--encoder\.depth.*six"),
        (["--precision", "fp8"], r"fp8.*--precision.*fp32.*bf16"),
        (["--size", "giant"], r"--size giant is not one of small, large"),
        (["--size"], r"--size needs a value"),
        (["--masking.toy", "tubes"], r"No masking is called 'tubes'.*Did you mean 'tube'"),
        (["--batch", "0"], r"--batch is 0; it must be above 0"),
        (["--steps", "0"], r"--steps is 0; it must be above 0"),
        (["--micro-batch", "-1"], r"--micro-batch is -1; it must be above 0"),
        (["--workers", "-1"], r"--workers is -1; it must not be negative"),
        (["--clip-grad", "0"], r"--clip-grad is 0\.0; it must be above 0, or None"),
        (["--budget.ratio", "2"], r"2(\.0)?.*share in \[0, 1\]"),
        (["--config", "nowhere.yaml"], r"--config nowhere\.yaml can't be read: .*No such file"),
    ],
)
def test_a_mistake_is_one_line_that_helps(argv, message):
    with pytest.raises(OptionError, match=message) as error:
        ask(*argv)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "holds list, not fields"), ("a: [", "can't be read"), ("\x00", "can't be read")]
)
def test_a_config_that_is_none_says_so(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OptionError, match=message) as error:
        ask("--config", str(tmp_path / "c.yaml"))
    assert "\n" not in str(error.value)


def test_an_unknown_field_in_a_config_is_answered_with_those_that_are(config):
    with pytest.raises(OptionError, match=r"encoder has no field dept; there are .*depth"):
        ask("--config", config(encoder={"dept": 3}))


def test_help_exits_with_0_and_lists_fields_sizes_and_parts(capsys):
    with pytest.raises(SystemExit) as stop:
        ask("--help")
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    for expected in ("--encoder.depth", "Shared blocks", "small,large", "--masking.toy {random,", "--checkpoint-every"):
        assert expected in said


def test_a_part_of_another_kind_replaces_the_whole_part():
    below = {"budget": {"kind": "ratio", "ratio": 0.5}, "batch": 8}
    assert merge(below, {"budget": {"kind": "other", "total": 3}}) == {
        "budget": {"kind": "other", "total": 3},
        "batch": 8,
    }
    assert merge(below, {"budget": {"ratio": 0.1}}) == {"budget": {"kind": "ratio", "ratio": 0.1}, "batch": 8}
