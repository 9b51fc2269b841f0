import pytest
import torch

from mmim.errors import CheckpointError, OptionError
from tests.recipes.weights.imports import at, case, imported, loaded, off, run, split_of, write

OPTIONS = {"heads": 4, "decoder_heads": 2, "size": (32, 32)}


@pytest.fixture
def official():
    return case("videomae")


@pytest.mark.parametrize("wrapper", ["model", "module"])
def test_every_key_is_used_and_the_numbers_are_the_official_ones(official, wrapper, tmp_path):
    path = write(tmp_path / "videomae.pth", official.state, wrapper)
    made = imported(path, "videomae", **OPTIONS)
    assert made.kept == len(official.state)
    model, tensors = loaded(made, tmp_path / "out"), official.tensors
    split = split_of(tensors["mask/mask"])
    step = run(model, tensors["input/clip"].double(), split)
    assert off(step.latents().values, tensors["out/latent"]) < 2e-6
    assert off(step.prediction("video"), tensors["out/pred"]) < 2e-6
    assert at(tensors["fixed/pos_embed"].expand(2, -1, -1), split.ids_keep).shape[1] == step.latents().values.shape[1]


def test_an_encoder_alone_with_or_without_its_prefix(official, tmp_path):
    encoder = {name: tensor for name, tensor in official.state.items() if name.startswith("encoder.")}
    bare = {name.removeprefix("encoder."): tensor for name, tensor in encoder.items()}
    models = [
        imported(write(tmp_path / f"{i}.pth", state), "videomae", heads=4, size=(32, 32)).model
        for i, state in enumerate((encoder, bare))
    ]
    assert models[0].method == models[1].method
    assert models[0].method.decoders == {}
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fine_tuned_encoder_has_no_norm_once_that_of_pooled_tokens_is_dropped(official, tmp_path):
    state = {name.removeprefix("encoder."): t for name, t in official.state.items() if name.startswith("encoder.")}
    state["fc_norm.weight"], state["fc_norm.bias"] = state.pop("norm.weight"), state.pop("norm.bias")
    path = write(tmp_path / "videomae.pth", state)
    with pytest.raises(CheckpointError, match=r"The file lacks 'norm\.weight', 'norm\.bias'"):
        imported(path, "videomae", heads=4, size=(32, 32))
    made = imported(path, "videomae", ("fc_norm.*",), heads=4, size=(32, 32))
    assert not made.model.method.encoder.final_norm
    assert any("pooled tokens" in remark for remark in made.remarks)


def test_the_arguments_in_the_file_say_how_it_was_trained(official, tmp_path):
    path = write(tmp_path / "videomae.pth", official.state, num_frames=8, sampling_rate=2, normlize_target=False)
    method = imported(path, "videomae", **OPTIONS).model.method
    assert (method.modalities["video"].frames, method.modalities["video"].stride) == (8, 2)
    assert method.tasks["video"].target.normalise == "none"


def test_a_frame_that_is_not_square_is_refused(official, tmp_path):
    path = write(tmp_path / "videomae.pth", official.state)
    with pytest.raises(OptionError, match="--size 32 48 is not square"):
        imported(path, "videomae", **OPTIONS | {"size": (32, 48)})
