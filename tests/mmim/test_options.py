from dataclasses import dataclass, replace

import pytest
import yaml

from mmim.config import to_plain
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.masking.budget import Ratio
from mmim.masking.dual import DualMasking
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.options import merge, parse
from mmim.parts import register
from mmim.training.recipe import Recipe
from tests.mmim.test_using import Stranger  # noqa: F401  # registered there
from tests.toy import TOY, Toy

SIZES = {"small": {"encoder.width": 16}, "large": {"encoder.width": 32, "encoder.depth": 4, "batch": 16}}
DEMO = {"size": "small", "batch": 4, "encoder.heads": 1, "steps": 7}


@register("wide")
@dataclass(frozen=True, kw_only=True)
class Wide(JointEncoder):
    """An encoder of another kind."""


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
    assert to_plain(recipe) == to_plain(TOY) | {"data": ["somewhere"]}


def test_without_data_it_is_the_demo():
    recipe = ask()
    assert (recipe.batch, recipe.encoder.width, recipe.encoder.heads, recipe.size) == (4, 16, 1, "small")


def test_a_size_is_above_the_recipe():
    recipe = ask("--data", "x", "--size", "large")
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.batch, recipe.size) == (32, 4, 16, "large")


def test_a_size_replaces_that_of_the_demo():
    recipe = ask("--size=large")
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.batch) == (32, 4, 4)


def test_a_config_is_above_its_own_size_and_the_demo(config):
    recipe = ask("--config", config(size="large", encoder={"depth": 3}, batch=6))
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.batch) == (32, 3, 6)


def test_a_size_on_the_command_line_is_above_the_model_of_a_config(config):
    file = config(size="small", encoder={"width": 8, "depth": 3, "heads": 4}, batch=6)
    recipe = ask("--size", "large", "--config", file)
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.encoder.heads) == (32, 4, 4)
    assert (recipe.batch, recipe.size) == (6, "large")


def test_a_written_recipe_can_be_run_at_another_size(config):
    file = config(**to_plain(ask("--data", "x", "--size", "small", "--seed", "3")))
    recipe = ask("--config", file, "--size", "large", "--encoder.depth", "6")
    assert (recipe.encoder.width, recipe.encoder.depth, recipe.seed) == (32, 6, 3)


def test_epochs_on_the_command_line_replace_the_steps_of_demo_and_config(config):
    assert ask().steps == 7
    assert (ask("--epochs", "3").steps, ask("--epochs", "3").epochs) == (None, 3.0)
    assert ask("--config", config(data="x", steps=9), "--epochs=3").steps is None
    assert ask("--config", config(data="x", epochs=9), "--steps", "3").steps == 3


def test_epochs_of_a_config_replace_the_steps_of_the_demo(config):
    assert (ask("--config", config(epochs=2)).steps, ask("--config", config(epochs=2)).epochs) == (None, 2.0)
    assert ask("--config", config(epochs=2, steps=5)).steps == 5


def test_the_command_line_is_above_the_config(config):
    recipe = ask("--config", config(encoder={"depth": 3}, batch=6), "--encoder.depth", "5")
    assert (recipe.encoder.depth, recipe.batch) == (5, 6)


def test_a_config_may_name_data_and_size(config):
    recipe = ask("--config", config(data="somewhere", size="large"))
    assert (recipe.data, recipe.encoder.width, recipe.batch) == (("somewhere",), 32, 16)


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


def test_a_part_of_the_kind_that_is_there_keeps_its_fields():
    recipe = ask("--data", "x", "--encoder", "joint", "--budget=ratio")
    assert (recipe.encoder, recipe.budget) == (TOY.encoder, TOY.budget)


def test_a_size_reaches_a_part_that_was_exchanged():
    assert ask("--data", "x", "--size", "large", "--encoder", "wide").encoder.width == 32


def test_a_config_exchanges_a_part_by_kind(config):
    assert ask("--config", config(masking={"toy": {"kind": "random"}})).masking == {"toy": RandomMasking()}


def test_the_exchanged_part_takes_options():
    assert ask("--budget", "ratio", "--budget.ratio", "0.25").budget.ratio == 0.25


def test_a_part_inside_of_an_exchanged_part_is_exchanged_too():
    asked = ("--budget", "dual", "--budget.decoder", "random", "--budget.encoder.ratio", "0.8", "--budget.ratio=0.25")
    assert ask(*asked).budget == DualMasking(
        encoder=Ratio(0.8, rounding="hidden_down"), decoder=RandomMasking(), ratio=0.25
    )
    with pytest.raises(OptionError, match="No masking is called 'randum'"):
        ask("--budget", "dual", "--budget.decoder", "randum")


def test_a_field_of_a_modality_is_an_option():
    assert ask("--modalities.toy.columns", "6").modalities["toy"] == Toy(columns=6)


@pytest.mark.parametrize("option", ["--micro-batch", "--micro_batch"])
def test_dashes_and_underscores_are_alike(option):
    assert ask(option, "2").micro_batch == 2


def test_the_last_value_wins():
    assert ask("--size", "small", "--size", "large").size == "large"


def test_a_value_may_start_with_a_dash_after_an_equals_sign():
    assert ask("--data=-clips").data == ("-clips",)
    assert ask("--seed", "-1").seed == -1


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
        (["--size"], r"--size needs a value\.$"),
        (["--size", "--batch", "4"], r"--size needs a value\. One that starts with a dash is written --size=-"),
        (["--data", "-h"], r"--data needs a value"),
        (["--masking.toy", "-x"], r"--masking\.toy needs a value"),
        (["--size="], r"--size '' is not one of small, large"),
        (["--data", ""], r"--data names nothing: .*leave --data out for the demo"),
        (["--data="], r"--data names nothing"),
        (["--data", "None"], r"--data names nothing"),
        (["--steps", "3", "--epochs", "2"], r"--steps 3 and --epochs 2 are two lengths .*one of them"),
        (["--masking.toy", "tubes"], r"No masking is called 'tubes'.*Did you mean 'tube'"),
        (["--batch", "0"], r"--batch is 0; it must be above 0"),
        (["--steps", "0"], r"--steps is 0; it must be above 0"),
        (["--micro-batch", "-1"], r"--micro-batch is -1; it must be above 0"),
        (["--workers", "-1"], r"--workers is -1; it must not be negative"),
        (["--clip-grad", "0"], r"--clip-grad is 0\.0; it must be above 0, or None"),
        (["--clip-grad", "nan"], r"--clip-grad is nan; it must be above 0, or None"),
        (["--max-bad", "nan"], r"--max-bad is nan; it must not be negative"),
        (["--epochs", "nan"], r"--epochs is nan; it must be above 0 and finite"),
        (["--epochs", "inf"], r"--epochs is inf; it must be above 0 and finite"),
        (["--epochs", "-1"], r"--epochs is -1\.0; it must be above 0 and finite"),
        (["--budget.ratio", "2"], r"2(\.0)?.*share in \[0, 1\]"),
        (["--budget.ratio", "nan"], r"nan.*share in \[0, 1\]"),
        (["--encoder.heads", "0"], r"encoder\.heads is 0; it must be at least 1"),
        (["--encoder.heads", "-2"], r"encoder\.heads is -2; it must be at least 1"),
        (["--encoder.width", "0"], r"encoder\.width is 0; it must be at least 1"),
        (["--encoder.depth", "0"], r"encoder\.depth is 0; it must be at least 1"),
        (["--encoder.branch-depth", "-1"], r"encoder\.branch_depth is -1; it must be at least 0"),
        (["--encoder.mlp-ratio", "0"], r"encoder\.mlp_ratio is 0\.0; it must be above 0 and finite"),
        (["--encoder.mlp-ratio", "inf"], r"encoder\.mlp_ratio is inf; it must be above 0 and finite"),
        (["--encoder.eps", "nan"], r"encoder\.eps is nan; it must be above 0 and finite"),
        (["--decoders.toy.heads", "0"], r"decoder\.heads is 0; it must be at least 1"),
        (["--decoders.toy.width", "-8"], r"decoder\.width is -8; it must be at least 1"),
        (["--decoders.toy.depth", "-1"], r"decoder\.depth is -1; it must be at least 0"),
        (["--decoders.toy.mlp-ratio", "-1"], r"decoder\.mlp_ratio is -1\.0; it must be above 0 and finite"),
        (["--decoders.toy.eps", "0"], r"decoder\.eps is 0\.0; it must be above 0 and finite"),
        (["--optimiser.base-lr", "-1e-3"], r"optimiser\.base_lr is -0\.001; it must be at least 0 and finite"),
        (["--optimiser.base-lr", "nan"], r"optimiser\.base_lr is nan; it must be at least 0 and finite"),
        (["--optimiser.per", "-1"], r"optimiser\.per is -1; it must be at least 0"),
        (["--optimiser.betas", "0.9", "1"], r"optimiser\.betas is \(0\.9, 1\.0\); it must be two numbers in \[0, 1\)"),
        (["--optimiser.betas", "-0.1", "0.9"], r"optimiser\.betas is \(-0\.1, 0\.9\); it must be two numbers"),
        (["--optimiser.eps", "0"], r"optimiser\.eps is 0\.0; it must be above 0 and finite"),
        (["--optimiser.weight-decay", "-0.1"], r"optimiser\.weight_decay is -0\.1; it must be at least 0 and finite"),
        (["--schedule.min-lr", "1.5"], r"schedule\.min_lr is 1\.5; it must be a share .*in \[0, 1\]"),
        (["--schedule.min-lr", "nan"], r"schedule\.min_lr is nan; it must be a share"),
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


@pytest.mark.parametrize(("field", "value"), [("data", ""), ("data", 3), ("size", ["large"]), ("steps", "many")])
def test_a_config_with_a_wrong_value_says_where(config, field, value):
    with pytest.raises(OptionError, match=field):
        ask("--config", config(**{field: value}))


def test_an_unknown_field_in_a_config_is_answered_with_those_that_are(config):
    with pytest.raises(OptionError, match=r"encoder has no field dept; there are .*depth"):
        ask("--config", config(encoder={"dept": 3}))


def test_help_exits_with_0_and_lists_fields_sizes_and_parts(capsys):
    with pytest.raises(SystemExit) as stop:
        ask("--help")
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    for expected in ("--encoder.depth", "Shared blocks", "small,large", "--masking.toy {", "--checkpoint-every"):
        assert expected in said


def test_a_part_of_another_kind_replaces_the_whole_part():
    below = {"budget": {"kind": "ratio", "ratio": 0.5}, "batch": 8}
    assert merge(below, {"budget": {"kind": "other", "total": 3}}) == {
        "budget": {"kind": "other", "total": 3},
        "batch": 8,
    }
    assert merge(below, {"budget": {"ratio": 0.1}}) == {"budget": {"kind": "ratio", "ratio": 0.1}, "batch": 8}


def test_help_shows_the_recipes_own_values_and_names_the_demos(capsys):
    from recipes.videomae import DEMO, SIZES, VIDEOMAE

    with pytest.raises(SystemExit, match="0"):
        parse(VIDEOMAE, ["--help"], SIZES, DEMO)
    said = " ".join(capsys.readouterr().out.split())
    assert "(default: 2048)" in said
    assert "Without --data the demo runs" in said


@pytest.mark.parametrize(
    "arguments", [["--size", "tiny", "--encoder", "swin"], ["--encoder", "swin", "--size", "tiny"]]
)
def test_a_size_and_another_part_can_not_both_be(arguments):
    from recipes.mae import DEMO, MAE, SIZES

    with pytest.raises(OptionError, match=r"--size tiny sets encoder.depth, and --encoder chooses another part"):
        parse(MAE, ["--data", ".", *arguments], SIZES, DEMO)


def test_a_size_that_brings_a_part_and_an_option_that_chooses_it_are_two_answers():
    sizes = {"whole": {"encoder": Wide(width=16, heads=1)}}
    with pytest.raises(OptionError, match="--size whole sets encoder, and --encoder chooses another part"):
        parse(TOY, ["--data", "x", "--size", "whole", "--encoder", "joint"], sizes, DEMO)
    assert parse(TOY, ["--data", "x", "--size", "whole"], sizes, DEMO).encoder == Wide(width=16, heads=1)


def with_stranger(*argv: str) -> Recipe:
    return ask("--use", "toy,stranger", *argv)


def test_use_adds_an_installed_modality_whose_fields_are_options_then():
    recipe = with_stranger("--modalities.stranger.rows", "4", "--data", "x", "--decoders.stranger.depth", "2")
    assert list(recipe.modalities) == ["toy", "stranger"]
    assert recipe.modalities["stranger"].rows == 4
    assert recipe.decoders["stranger"].depth == 2
    assert recipe.use == ("toy", "stranger")
    assert ask("--use=stranger,toy", "--data", "x").modalities.keys() == recipe.modalities.keys()
    assert ask("--use", "stranger", "toy", "--data", "x").use == recipe.use


def test_use_of_all_that_a_recipe_has_is_the_recipe():
    assert ask("--use", "toy", "--data", "x") == ask("--data", "x")


def test_a_size_says_nothing_of_what_is_left_out():
    sizes = {"small": {"decoders.toy.width": 4, "encoder.width": 16}}
    recipe = parse(TOY, ["--size", "small", "--use", "stranger", "--data", "x"], sizes, {})
    assert list(recipe.modalities) == ["stranger"]
    assert recipe.encoder.width == 16
    assert recipe.decoders["stranger"].width == 4  # one like that which is left out


def test_a_runs_recipe_with_other_modalities_is_a_config(config):
    recipe = with_stranger("--modalities.stranger.rows", "4", "--data", "x", "--size", "small")
    file = config(**to_plain(recipe))
    assert replace(ask("--config", file), config=None) == recipe
    less = ask("--config", file, "--use", "stranger")
    assert list(less.modalities) == ["stranger"]
    assert less.modalities["stranger"].rows == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--use"], "--use needs names, such as --use one,other"),
        (["--use", "--steps", "3"], "--use needs names"),
        (["--use", ","], "--use needs names"),
        (["--use", "toy", "toy"], "--use names toy twice"),
        (["--freeze", "trunk"], "--freeze without --init"),
        (["--init", "x", "--freeze-steps", "3"], "--freeze-steps 3 needs --freeze"),
        (["--init", "x", "--freeze", "trunk", "--freeze-steps", "0"], "must be at least 1"),
        (["--compare.samples", "2"], "compare.samples is 2; it must be at least 8"),
        (["--compare.most-lost", "-1"], "compare.most_lost is -1.0; it must be points of percent"),
    ],
)
def test_what_grows_a_model_is_refused_where_it_can_not_be(argv, message):
    with pytest.raises(OptionError, match=message):
        ask(*argv)


@pytest.mark.parametrize("use", [["stranger"], "stranger", "stranger,", " stranger "])
def test_use_in_a_config_may_be_a_list_or_names_between_commas(use, config):
    assert list(ask("--config", config(use=use, data=["x"])).modalities) == ["stranger"]


@pytest.mark.parametrize("use", [3, ["toy", 3], {"toy": 1}])
def test_use_in_a_config_that_is_no_names_is_refused(use, config):
    with pytest.raises(OptionError, match=r"The --config has `use: .*it must be a list of names"):
        ask("--config", config(use=use))


def test_a_modality_that_the_config_leaves_out_is_named_there(config):
    file = config(**to_plain(ask("--use", "stranger", "--data", "x")))
    with pytest.raises(OptionError, match=r"--use toy: the --config leaves it out"):
        ask("--config", file, "--use", "toy")
