"""Parity of VideoMAE V2, imported as users do, with the official class, and proof that it notices faults."""

from dataclasses import replace

import pytest
import torch
import yaml

import mmim
from mmim.checkpoint import save
from mmim.config import to_plain
from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.masking.budget import Ratio, groups_of
from mmim.masking.random import RandomMasking
from mmim.masking.running_cell import RunningCellMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply, parse
from mmim.records import Split
from mmim.targets.pixels import Pixels
from modalities.video import Video
from recipes.videomae_v2 import DEMO, SIZES, VIDEOMAE_V2
from tests.parity import F32, F64, batch_of, beyond, imported, load, run, shift, split_of, tanh_gelu, worst
from tests.videomae import float64

OPTIONS = {"heads": 4, "decoder_heads": 2, "size": (32, 32)}


def dual_of(reference) -> Split:
    """The split that the reference's two masks say, decoded places in index order."""
    hidden, idle = reference.tensors["mask/mask"], reference.tensors["mask/decode_mask"]
    asked = split_of(idle).ids_keep
    return replace(split_of(hidden), ids_masked=asked, counted=hidden.gather(1, asked))


def errors(model, reference, split, dtype=torch.float64):
    """How far latents, predictions, targets and losses are from the official ones."""
    with float64() if dtype == torch.float64 else torch.no_grad():
        model = model.to(dtype)
        step, loss = run(model, "video", reference.tensors["input/clip"].to(dtype), split)
        expected = reference.part("out/")
        found = {"latent": step.latents().values, "pred": step.prediction("video"), "target": step.target("video")}
        target = model.method.tasks["video"].target
        found |= {"loss_per_token": target.loss(found["pred"], found["target"]), "loss": loss}
        return worst(found, expected)


@pytest.fixture
def case(tmp_path):
    reference = load("videomaev2")
    return imported("videomae_v2", reference, tmp_path, OPTIONS), reference


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(case, dtype, allowed):
    model, reference = case
    assert beyond(errors(model, reference, dual_of(reference), dtype), allowed) == {}


def test_counts_the_places_that_were_decoded_and_hidden(case):
    _, reference = case
    assert torch.equal(dual_of(reference).counted, reference.tensors["mask/counted"])


def test_without_a_mask_for_the_decoder_it_is_videomae(case):
    model, reference = case
    split = split_of(reference.tensors["mask/mask"])
    with float64():
        step, loss = run(model.double(), "video", reference.tensors["input/clip"].double(), split)
        found = {"pred_all_hidden": step.prediction("video"), "loss_all_hidden": loss}
        assert max(worst(found, reference.part("out/")).values()) < 2e-6


MUTATIONS = {
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-5),
    "decoder eps": lambda model: setattr(model.decoders["video"].norm, "eps", 1e-5),
    "tanh gelu": lambda model: tanh_gelu(model.decoders["video"].blocks[0]),
    "mask token": lambda model: shift(model.decoders["video"].mask_token),
    "v bias": lambda model: shift(model.decoders["video"].blocks[1].attn.v_bias),
    "projection": lambda model: shift(model.decoders["video"].embed.weight),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault_in_the_model(case, mutation):
    model, reference = case
    MUTATIONS[mutation](model)
    assert beyond(errors(model, reference, dual_of(reference)), F64)


def all_count(split):
    return replace(split, counted=None)


def none_twice(split):
    """Every visible place that is decoded is told to attention as padding: it stands once in the sequence."""
    return replace(split, masked_valid=split.counted)


@pytest.mark.parametrize(
    ("change", "seen_in"), [(all_count, {"loss"}), (none_twice, {"pred", "loss_per_token", "loss"})]
)
def test_parity_notices_another_use_of_visible_places(case, change, seen_in):
    model, reference = case
    assert beyond(errors(model, reference, change(dual_of(reference))), F64).keys() == seen_in


def test_parity_notices_the_other_half_of_the_places(case):
    model, reference = case
    hidden, idle = reference.tensors["mask/mask"], reference.tensors["mask/decode_mask"]
    other = split_of(idle).ids_masked
    split = replace(split_of(hidden), ids_masked=other, counted=hidden.gather(1, other))
    assert set(beyond(errors(model, reference, split), F64)) == {"pred", "target", "loss_per_token", "loss"}


@pytest.mark.parametrize(
    "target", [Pixels(), Pixels(normalise="channel", units="raw"), Pixels(normalise="token", units="raw")]
)
def test_parity_notices_another_target(case, target):
    model, reference = case
    method = replace(model.method, tasks={"video": replace(model.method.tasks["video"], target=target)})
    other = MaskedModel(method)
    other.load_state_dict(model.state_dict())
    assert {"target", "loss"} <= set(beyond(errors(other, reference, dual_of(reference)), F64))


def cut(recipe, samples=1):
    """The split of blank clips, and the tokens of one."""
    modality = recipe.modalities["video"]
    tokens = modality.tokenize(modality.blank().expand(samples, *modality.blank().shape))
    policy, draw = recipe.masking["video"], Draw(torch.arange(samples))
    groups = {"video": groups_of(policy, tokens)}
    return recipe.budget.cut({"video": policy.rank(tokens, draw)}, {"video": tokens}, draw, groups)["video"], tokens


@pytest.mark.parametrize(
    ("size", "n", "kept", "decoded"),
    [("base", 8 * 196, 8 * 20, 784), ("large", 8 * 196, 160, 784), ("giant", 8 * 256, 26 * 8, 1024)],
)
def test_sees_and_decodes_as_many_tokens_as_the_paper(size, n, kept, decoded):
    split, tokens = cut(apply(VIDEOMAE_V2, SIZES[size]))
    assert tokens.count == n
    assert (split.ids_keep.shape[1], split.ids_masked.shape[1]) == (kept, decoded)  # fact sheet 2.2
    seen = set(split.ids_keep[0].tolist())
    assert split.counted[0].tolist() == [place not in seen for place in split.ids_masked[0].tolist()]


@pytest.mark.parametrize(("size", "millions"), [("giant", 1026.3), ("base", 94.21)])
def test_has_as_many_parameters_as_the_paper(size, millions):
    with torch.device("meta"):
        model = MaskedModel(apply(VIDEOMAE_V2, SIZES[size]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)  # fact sheets 3.3, 3.4


def test_the_giants_mlps_are_as_wide_as_published():
    with torch.device("meta"):
        model = MaskedModel(apply(VIDEOMAE_V2, SIZES["giant"]))
    assert model.trunk.encoder.blocks[0].mlp.fc1.out_features == 6144
    assert model.decoders["video"].blocks[0].mlp.fc1.out_features == 2234
    assert model.decoders["video"].heads["video"].out_features == 1176  # fact sheet 3.4


def test_rates_and_epochs_count_videos():
    # Fact sheet 3.4: the rate of B is 1e-3 * 2048 / 256 for 2048 videos, of each of which four clips are taken.
    assert VIDEOMAE_V2.optimiser.rate(VIDEOMAE_V2.batch) == pytest.approx(1e-3 * 2048 / 256)
    assert VIDEOMAE_V2.total_steps(204_800) == 200 * 100
    giant = apply(VIDEOMAE_V2, SIZES["giant"])
    assert giant.optimiser.rate(giant.batch) == pytest.approx(6e-4 * 2048 / 256)
    assert giant.epochs * giant.repeats == 1200


def test_the_decoder_is_asked_for_running_cells():
    recipe = apply(VIDEOMAE_V2, {"modalities.video.size": 64})
    split, tokens = cut(recipe, samples=5)
    expected = RunningCellMasking().rank(tokens, Draw(torch.arange(5)).named("decoder 0"))
    asked = torch.zeros(5, tokens.count, dtype=torch.bool).scatter(1, split.ids_masked, True)
    assert torch.equal(asked, expected < 2)


def test_a_step_of_training_reaches_every_parameter():
    recipe = apply(
        VIDEOMAE_V2, SIZES["tiny"] | {"modalities.video.size": 32, "modalities.video.patch": 8, "precision": "fp32"}
    )
    model = MaskedModel(recipe)
    clips = torch.randint(0, 256, (2, 3, 16, 32, 32), dtype=torch.uint8)
    term = model(batch_of("video", clips))["reconstruction/video"]
    term.total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    step = Step(model, batch_of("video", clips))
    assert term.count == step.splits["video"].counted.sum()


def ask(*argv):
    return parse(VIDEOMAE_V2, ["--data", "x", *argv], SIZES, DEMO)


def test_what_each_budget_does_is_an_option():
    recipe = ask("--budget.encoder.ratio", "0.8", "--budget.ratio", "0.25", "--budget.decoder", "random")
    assert recipe.budget == replace(
        VIDEOMAE_V2.budget, encoder=Ratio(0.8, rounding="hidden_down"), decoder=RandomMasking(), ratio=0.25
    )
    assert ask("--budget.encoder.rounding", "kept_down").budget.encoder == Ratio(0.9)
    assert ask("--budget", "ratio", "--budget.ratio", "0.9").budget == Ratio(0.9)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget.encoder.ratio", "2"], r"A masking ratio of 2.0 can't be"),
        (["--budget.ratio", "1"], r"DualMasking.ratio is 1.0; it must be a share in \[0, 1\)"),
        (["--budget.decoder", "tubes"], r"No masking is called 'tubes'; .* Did you mean 'tube'"),
        (["--budget.encoder.rato", "0.8"], r"--budget.encoder.rato"),
    ],
)
def test_a_mistake_in_a_budget_is_one_line(argv, message):
    with pytest.raises(OptionError, match=message) as raised:
        ask(*argv)
    assert "\n" not in str(raised.value)


def test_help_shows_both_budgets(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(VIDEOMAE_V2, ["--help"], SIZES, DEMO)
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for option in ("--budget.encoder.ratio", "--budget.encoder.rounding", "--budget.ratio", "--budget.decoder {"):
        assert option in said


def test_recipe_and_config_name_both_budgets(tmp_path):
    recipe = ask("--budget.encoder.ratio", "0.8", "--budget.decoder", "random")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(to_plain(recipe)))
    assert parse(VIDEOMAE_V2, ["--config", str(file)], SIZES, DEMO).budget == recipe.budget
    (tmp_path / "partial.yaml").write_text("budget: {encoder: {ratio: 0.8}}")
    partial = parse(VIDEOMAE_V2, ["--config", str(tmp_path / "partial.yaml"), "--data", "x"], SIZES, DEMO)
    assert partial.budget == apply(VIDEOMAE_V2, {"budget.encoder.ratio": 0.8}).budget


def test_a_checkpoint_names_both_budgets(case, tmp_path):
    model, _ = case
    plain = MaskedModel(replace(model.method, modalities=VIDEOMAE_V2.modalities | {"video": Video(size=32, patch=8)}))
    assert mmim.load(save(tmp_path / "checkpoints", plain, 0)).method.budget == VIDEOMAE_V2.budget
