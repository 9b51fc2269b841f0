import pytest

from mmim.errors import CheckpointError, OptionError
from mmim.records import Split
from tests.recipes.weights.imports import at, case, imported, loaded, off, run, write

CASES = {
    "audiomae_plain_decoder": {"heads": 4, "decoder_heads": 4, "size": (128, 64)},
    "audiomae_local_decoder": {"heads": 4},
}


@pytest.mark.parametrize(("name", "options"), CASES.items())
def test_every_key_is_used_and_the_numbers_are_the_official_ones(name, options, tmp_path):
    reference = case(name)
    made = imported(write(tmp_path / "audiomae.pth", reference.state), "audiomae", **options)
    assert made.kept == len(reference.state)
    model, tensors = loaded(made, tmp_path / "out"), reference.tensors
    keep = tensors["mask/ids_keep"]
    hidden = tensors["mask/ids_restore"].argsort(dim=1)[:, keep.shape[1] :]
    step = run(model, tensors["input/spectrogram"].double(), Split(keep, hidden))
    assert off(step.latents().values, tensors["out/latent"][:, 1:]) < 2e-6
    assert off(step.latents().globals, tensors["out/latent"][:, :1]) < 2e-6
    assert off(step.prediction("audio"), at(tensors["out/pred"], hidden)) < 2e-6


@pytest.mark.parametrize(("name", "options"), CASES.items())
def test_the_table_of_the_transposed_grid_is_recognised(name, options, tmp_path):
    made = imported(write(tmp_path / "audiomae.pth", case(name).state), "audiomae", **options)
    assert made.model.method.modalities["audio"].positions == "sincos_transposed"


def test_the_size_is_asked_for_where_the_number_of_tokens_does_not_tell(tmp_path):
    path = write(tmp_path / "audiomae.pth", case("audiomae_plain_decoder").state)
    with pytest.raises(OptionError, match="positions of 32 places, which are no square: give --size"):
        imported(path, "audiomae", heads=4, decoder_heads=4)


def test_pictures_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"this file has 3: is it --from mae\?"):
        imported(write(tmp_path / "mae.pth", case("mae_norm_pix").state), "audiomae", heads=4)
