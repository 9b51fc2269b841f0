import pytest
import torch
from torch.testing import assert_close

from mmim.errors import CheckpointError
from mmim.model import Step
from mmim.records import Batch
from tests.recipes.weights.imports import case, imported, loaded, off, take_normalised

CASES = {"cav_mae": {"heads": 4, "decoder_heads": 3}, "cav_mae_two_shared": {"heads": 3, "decoder_heads": 2}}
NO_DECODER = ("decoder*", "mask_token")


def parallel_file(folder, name, change=lambda state: state):
    """Weights as the official code saves them: of a DataParallel model, without anything around."""
    path = folder / "audio_model.25.pth"
    torch.save({f"module.{key}": tensor for key, tensor in change(case(name).state).items()}, path)
    return path


def batch_of(tensors):
    ids = torch.arange(3)
    data = {"audio": tensors["input/audio"][:, None].double(), "image": tensors["input/image"].double()}
    return Batch({"main": data}, {name: torch.ones(3, dtype=torch.bool) for name in data}, ids, ids, ids[0])


@pytest.mark.parametrize(("name", "options"), CASES.items())
def test_every_key_is_used_or_said_to_be_idle(name, options, tmp_path):
    made = imported(parallel_file(tmp_path, name), "cavmae", **options)
    depth = {"cav_mae": 2 * 11 + 2, "cav_mae_two_shared": 2 * 10 + 1}[name]
    assert made.kept == len(case(name).state)
    assert f"{depth * 8} weights of norms that no pass uses are left out, such as 'blocks_a.0.norm1_a'" in "\n".join(
        made.remarks
    )
    assert [part.positions for part in made.model.method.modalities.values()] == ["sincos_row_first", "sincos"]


@pytest.mark.parametrize(("name", "options"), CASES.items())
def test_what_is_loaded_again_embeds_as_the_official_code(name, options, tmp_path):
    made = imported(parallel_file(tmp_path, name), "cavmae", **options)
    model, tensors = loaded(made, tmp_path / "out"), case(name).tensors
    take_normalised(model)
    for part in ("audio", "image"):
        with torch.no_grad():
            found = torch.nn.functional.normalize(model.embed(batch_of(tensors), [part]), dim=-1)
        assert off(found, tensors[f"out/retrieval_{part}"]) < 2e-6


def test_an_encoder_alone_is_enough_to_embed_and_to_contrast(tmp_path):
    path = parallel_file(tmp_path, "cav_mae")
    whole = imported(path, "cavmae", **CASES["cav_mae"]).model
    alone = imported(path, "cavmae", NO_DECODER, heads=4).model
    assert (alone.method.tasks, set(alone.method.objective)) == ({}, {"contrastive"})
    batch = batch_of(case("cav_mae").tensors).map(lambda x: x.float() if x.is_floating_point() else x)
    for model in (whole, alone):
        take_normalised(model)
    with torch.no_grad():
        assert_close(alone.embed(batch), whole.embed(batch))
        assert set(Step(alone, batch).splits) == {"audio", "image"}


def test_another_number_of_bands_is_refused(tmp_path):
    def cut(state):
        return state | {"pos_embed_a": state["pos_embed_a"][:, :30]}

    with pytest.raises(CheckpointError, match="'pos_embed_a' has 30 places, and 128 bands in patches of 16 can't"):
        imported(parallel_file(tmp_path, "cav_mae", cut), "cavmae", **CASES["cav_mae"])


def test_positions_of_another_kind_are_kept_as_a_table_in_our_order(tmp_path):
    def shifted(state):
        return state | {"pos_embed_a": state["pos_embed_a"] + 0.5}

    made = imported(parallel_file(tmp_path, "cav_mae", shifted), "cavmae", **CASES["cav_mae"])
    theirs = case("cav_mae").state["pos_embed_a"] + 0.5  # 8 bands x 4 frames
    table = made.model.trunk.positions["audio"].table
    assert_close(table[0, 8 * 3 + 5], theirs[0, 4 * 5 + 3])  # frame 3, band 5
