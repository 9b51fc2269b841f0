import pytest
import torch

from mmim.errors import CheckpointError, OptionError
from mmim.model import Step
from mmim.targets.chamfer import Chamfer
from tests.parity import batch_of, split_of
from tests.recipes.weights.imports import case, imported, loaded, off, write
from tests.videomae import float64

OPTIONS = {"heads": 4, "decoder_heads": 4, "points": 160, "groups": 16}
ENCODER = {name: OPTIONS[name] for name in ("heads", "points", "groups")} | {"group_size": 8}


@pytest.fixture
def official():
    return case("point_mae")


@pytest.mark.parametrize("wrapper", ["base_model", "module"])
def test_every_key_is_used_and_the_numbers_are_the_official_ones(official, wrapper, tmp_path):
    path = write(tmp_path / "pointmae.pth", official.state, wrapper)
    made = imported(path, "pointmae", **OPTIONS)
    assert made.kept == len(official.state)
    assert made.dropped == []
    model, tensors = loaded(made, tmp_path / "out"), official.tensors
    with float64(), torch.no_grad():
        batch = batch_of("points", tensors["input/points"].double())
        step = Step(model, batch, {"points": split_of(tensors["mask/mask"])})
        assert off(step.latents().values, tensors["out/latent"]) < 2e-6
        assert off(step.prediction("points").reshape(18, 8, 3), tensors["out/pred"]) < 2e-6
    assert int(model.trunk.embedders["points"].first.norm.num_batches_tracked) == int(
        official.state["MAE_encoder.encoder.first_conv.1.num_batches_tracked"]
    )


def test_names_that_data_parallel_training_prefixed_are_the_same(official, tmp_path):
    plain = imported(write(tmp_path / "a.pth", official.state), "pointmae", **OPTIONS)
    prefixed = {f"module.{name}": tensor for name, tensor in official.state.items()}
    made = imported(write(tmp_path / "b.pth", prefixed, "base_model"), "pointmae", **OPTIONS)
    assert made.model.method == plain.model.method
    torch.testing.assert_close(made.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)


def test_an_encoder_alone_with_or_without_its_prefix(official, tmp_path):
    encoder = {name: tensor for name, tensor in official.state.items() if name.startswith("MAE_encoder.")}
    bare = {name.removeprefix("MAE_encoder."): tensor for name, tensor in encoder.items()}
    models = [
        imported(write(tmp_path / f"{i}.pth", state), "pointmae", **ENCODER).model
        for i, state in enumerate((encoder, bare))
    ]
    assert models[0].method == models[1].method
    assert (models[0].method.decoders, models[0].method.tasks) == ({}, {})
    assert models[0].method.modalities["points"].group_size == 8
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    whole = imported(write(tmp_path / "whole.pth", official.state), "pointmae", **OPTIONS).model
    batch = batch_of("points", official.tensors["input/points"])
    assert torch.equal(models[0].embed(batch), whole.embed(batch))


def test_what_the_file_does_not_tell_is_as_published_and_said(official, tmp_path):
    path = write(tmp_path / "pointmae.pth", official.state)
    made = imported(path, "pointmae", heads=4, decoder_heads=4)
    points = made.model.method.modalities["points"]
    assert (points.points, points.groups, points.group_size) == (1024, 64, 8)
    assert made.model.method.tasks["points"].target == Chamfer(norm="l2")
    assert any("points=1024, groups=64, group_size=8, loss=cdl2" in remark for remark in made.remarks)


def test_the_loss_and_the_ratio_can_be_said(official, tmp_path):
    path = write(tmp_path / "pointmae.pth", official.state)
    method = imported(path, "pointmae", **OPTIONS, loss="cdl1", ratio=0.5).model.method
    assert method.tasks["points"].target == Chamfer(norm="l1")
    assert method.budget.ratio == 0.5


def test_a_fine_tuned_file_is_taken_once_its_class_token_is_dropped(official, tmp_path):
    state = {n.removeprefix("MAE_encoder."): t for n, t in official.state.items() if n.startswith("MAE_encoder.")}
    state |= {"cls_token": torch.zeros(1, 1, 48), "cls_pos": torch.zeros(1, 1, 48)}
    path = write(tmp_path / "pointmae.pth", state, "base_model")
    with pytest.raises(CheckpointError, match=r"Nothing here uses 'cls_token', 'cls_pos'"):
        imported(path, "pointmae", **ENCODER)
    made = imported(path, "pointmae", ("cls_*",), **ENCODER)
    assert made.dropped == ["cls_token", "cls_pos"]


def test_a_size_of_groups_that_the_file_tells_is_refused(official, tmp_path):
    path = write(tmp_path / "pointmae.pth", official.state)
    with pytest.raises(OptionError, match="--set group_size has no use here"):
        imported(path, "pointmae", **OPTIONS, group_size=8)


def test_a_file_of_another_format_is_refused(official, tmp_path):
    path = write(tmp_path / "pointmae.pth", case("mae_norm_pix").state)
    with pytest.raises(CheckpointError, match=r"has no 'encoder\.first_conv\.0\.weight', so it is not of this format"):
        imported(path, "pointmae", **OPTIONS)


def test_points_with_other_channels_are_refused(official, tmp_path):
    name = "MAE_encoder.encoder.first_conv.0.weight"
    state = official.state | {name: torch.ones(128, 6, 1)}
    with pytest.raises(CheckpointError, match="sees x, y and z, and this file 6 channels of a point"):
        imported(write(tmp_path / "pointmae.pth", state), "pointmae", **OPTIONS)


def test_a_missing_statistic_is_refused(official, tmp_path):
    state = {name: tensor for name, tensor in official.state.items() if not name.endswith("second_conv.1.running_var")}
    with pytest.raises(CheckpointError, match=r"The file lacks 'encoder\.second_conv\.1\.running_var'"):
        imported(write(tmp_path / "pointmae.pth", state), "pointmae", **OPTIONS)
