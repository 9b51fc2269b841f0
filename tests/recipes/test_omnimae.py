from dataclasses import replace

import pytest
import torch

from mmim.errors import CheckpointError, OptionError
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Split
from mmim.targets.pixels import Pixels
from recipes.omnimae import OMNIMAE, SIZES
from tests.parity import (
    F32,
    F64,
    batch_of_several,
    beyond,
    imported,
    load,
    one_place_on,
    shift,
    split_of,
    tanh_gelu,
    worst,
)
from tests.videomae import float64

KINDS = {"image": "image", "video": "clip"}
"""Our modalities, and what the reference calls them."""
OPTIONS = {"heads": 4, "decoder_heads": 4, "size": (32, 32)}


@pytest.fixture
def model_of(tmp_path):
    reference = load("omnimae")
    return imported("omnimae", reference, tmp_path, OPTIONS), reference


def data_of(reference, name, dtype):
    """A picture comes once, and is repeated as its modality does; here, where data are normalised already, by hand."""
    data = reference.tensors[f"input/{KINDS[name]}"].to(dtype)
    return data[:, :, None].expand(-1, -1, 2, -1, -1) if name == "image" else data


def split_from(reference, name):
    return split_of(reference.tensors[f"mask/{KINDS[name]}"].flatten(1))


def expected_of(reference, name, split):
    out = {part: reference.tensors[f"out/{part}_{KINDS[name]}"] for part in ("latent", "pred", "target", "loss")}
    out["loss_per_token"] = reference.tensors[f"out/loss_per_token_{KINDS[name]}"]
    rows = torch.arange(len(split.ids_masked))[:, None]
    return out | {part: out[part][rows, split.ids_masked] for part in ("pred", "target", "loss_per_token")}


def found_in(step, losses, name, latent, rows=slice(None)):
    """What a step gives of one kind, of those samples that have it."""
    target = step.method.tasks[name].target
    pred, wanted = step.prediction(name)[rows], step.target(name)[rows]
    term = losses[f"reconstruction/{name}"]
    found = {"latent": latent, "pred": pred, "target": wanted, "loss": term.total / term.count}
    return found | {"loss_per_token": target.loss(pred, wanted)}


def errors(model, reference, name, dtype=torch.float64):
    """How far a batch of one kind is off."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        model, split = model.to(dtype), split_from(reference, name)
        other = {kind: torch.zeros(2, dtype=torch.bool) for kind in KINDS if kind != name}
        batch = batch_of_several({name: data_of(reference, name, dtype)}, other)
        step = Step(model, batch, {name: split})
        found = found_in(step, model(batch, {name: split}), name, step.latents().values)
        return worst(found, expected_of(reference, name, split))


def mixed_errors(model, reference, dtype=torch.float64):
    """How far a batch is off of which two samples are pictures and two are clips; each lacks the other."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        model = model.to(dtype)
        rows = {"image": [0, 2], "video": [3, 1]}
        data, splits, present = {}, {}, {}
        for name, at in rows.items():
            part, split = data_of(reference, name, dtype), split_from(reference, name)
            data[name] = torch.zeros(4, *part.shape[1:], dtype=dtype)
            data[name][at] = part
            present[name] = torch.zeros(4, dtype=torch.bool)
            present[name][at] = True
            ids = [torch.zeros(4, part.shape[1], dtype=torch.int64) for part in (split.ids_keep, split.ids_masked)]
            for made, given in zip(ids, (split.ids_keep, split.ids_masked), strict=True):
                made[:] = given[0]
                made[at] = given
            splits[name] = Split(*ids)
        batch = batch_of_several(data, present)
        step, losses = Step(model, batch, splits), model(batch, splits)
        latents, start, found = step.latents(), 0, {}
        for name, at in rows.items():
            count = splits[name].ids_keep.shape[1]
            latent = latents.values[at, start : start + count]
            start += count
            split = split_from(reference, name)
            off = worst(found_in(step, losses, name, latent, at), expected_of(reference, name, split))
            found |= {f"{part} {name}": error for part, error in off.items()}
        total = sum(term.total / term.count for term in losses.values())
        both = sum(reference.tensors[f"out/loss_{kind}"] for kind in KINDS.values())
        return found | worst({"loss": total}, {"loss": both})


def too_far(errors, allowed):
    """The errors beyond what is allowed: of targets, of losses and of values."""
    kinds = {name: name.split()[0].removesuffix("_per_token") for name in errors}
    return {name: error for name, error in errors.items() if beyond({kinds[name]: error}, allowed)}


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"]
)


@PRECISIONS
@pytest.mark.parametrize("name", KINDS)
def test_pictures_and_clips_give_the_official_numbers(name, dtype, allowed, model_of):
    assert too_far(errors(*model_of, name, dtype), allowed) == {}


@PRECISIONS
def test_a_batch_of_both_gives_what_each_gives_alone(dtype, allowed, model_of):
    found = mixed_errors(*model_of, dtype)
    assert too_far(found, allowed) == {}
    assert len(found) == 11


@pytest.mark.parametrize("name", KINDS)
def test_targets_of_raw_pictures_and_clips_are_the_official_ones(name):
    reference = load("targets").tensors
    sizes = {"image": {"size": (48, 48)}, "video": {"size": 48, "frames": 4}}[name]
    modality = replace(OMNIMAE.modalities[name], patch=8, **sizes)
    with float64():
        tokens = modality.tokenize(reference[f"input/{KINDS[name]}"])
        everywhere = torch.arange(tokens.count).expand(2, -1)
        found = OMNIMAE.tasks[name].target.values(tokens, everywhere, modality)
    assert worst({"target": found}, {"target": reference[f"out/omnimae_{KINDS[name]}"]})["target"] < F64["targets"]


MUTATIONS = {
    "encoder eps": lambda model: setattr(model.trunk.encoder.norm, "eps", 1e-5),
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.blocks[0]),
    "patch bias": lambda model: shift(model.trunk.embedders["video"].proj.bias),
    "mask token": lambda model: shift(model.decoders["shared"].mask_token),
    "head bias": lambda model: shift(model.decoders["shared"].heads["image"].bias),
    "positions": lambda model: [one_place_on(model.trunk.positions[name]) for name in KINDS],
    "decoder positions": lambda model: [one_place_on(model.decoders["shared"].positions[name]) for name in KINDS],
    "projection first": lambda model: project_first(model.decoders["shared"]),
    "decoder eps": lambda model: setattr(model.decoders["shared"].norm, "eps", 1e-5),
    "no last norm": lambda model: setattr(model.trunk.encoder, "norm", torch.nn.Identity()),
}


def project_first(decoder):
    """Content is projected, and positions and mask tokens too, but without the bias in between."""
    decoder.embed.register_forward_hook(lambda module, inputs, out: out - module.bias)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault(mutation, name, model_of):
    model, reference = model_of
    MUTATIONS[mutation](model)
    assert too_far(errors(model, reference, name), F64)


def test_parity_notices_attention_to_what_a_sample_lacks(model_of, monkeypatch):
    model, reference = model_of
    monkeypatch.setattr("mmim.encoders.encoder._presence", lambda part, present: part.valid)
    assert too_far(mixed_errors(model, reference), F64)


@pytest.mark.parametrize(
    "target",
    [
        Pixels(normalise="channel", units="raw", eps_inside=False),
        Pixels(normalise="token", units="raw"),
        Pixels(normalise="channel"),
    ],
    ids=["eps outside", "statistics", "units"],
)
def test_parity_notices_another_target(target, model_of):
    model, reference = model_of
    tasks = {name: replace(task, target=target) for name, task in model.method.tasks.items()}
    model.method = replace(model.method, tasks=tasks)
    assert "target" in too_far(errors(model, reference, "video"), F64)


def test_one_embedder_and_one_head_serve_both():
    with torch.device("meta"):
        model = MaskedModel(OMNIMAE)
    assert list(model.trunk.embedders) == ["video"]
    assert list(model.decoders["shared"].heads) == ["image"]


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(OMNIMAE)
    learned = sum(parameter.numel() for parameter in model.parameters())
    assert learned / 1e6 == pytest.approx(94.22, abs=0.005)  # fact sheet 3.13; its tables are buffers


@pytest.mark.parametrize(("size", "counts"), [("base", (49, 157)), ("large", (49, 157)), ("huge", (64, 205))])
def test_hides_as_many_tokens_as_the_paper(size, counts):
    recipe = apply(OMNIMAE, SIZES[size])
    n = (224 // recipe.modalities["image"].patch) ** 2
    assert tuple(budget.num_keep(k) for budget, k in zip(recipe.budget.of.values(), (n, 8 * n), strict=True)) == counts


# Importing.


def test_sizes_are_read_off_the_file(model_of):
    model, _ = model_of
    image, video = model.method.modalities.values()
    assert (image.size, image.patch, image.frames) == ((32, 32), 8, 2)
    assert (video.size, video.patch, video.frames, video.tubelet) == (32, 8, 8, 2)
    assert model.method.decoders["shared"].bias == "none"
    assert model.method.encoder.bias == "qkv"


def test_a_size_that_the_positions_do_not_have_is_refused(tmp_path):
    with pytest.raises(OptionError, match="the file holds positions of 64 places, and no clip of square frames"):
        imported("omnimae", load("omnimae"), tmp_path, OPTIONS | {"size": (72, 72)})


def test_positions_of_another_kind_are_refused(tmp_path):
    reference = load("omnimae")
    reference.tensors["state/trunk.decoder.pos_embed"] += 0.1
    with pytest.raises(
        CheckpointError, match=r"'trunk\.decoder\.pos_embed' is not the table of Video with these sizes"
    ):
        imported("omnimae", reference, tmp_path, OPTIONS)


def test_an_encoder_alone_can_be_imported(tmp_path):
    reference = load("omnimae")
    for name in list(reference.tensors):
        if name.startswith(("state/head", "state/trunk.decoder", "state/trunk.mask_token")):
            del reference.tensors[name]
    model = imported("omnimae", reference, tmp_path, {"heads": 4, "size": (32, 32)})
    with torch.no_grad():
        found = model.embed(batch_of_several({"image": data_of(reference, "image", torch.float32)}), ["image"])
    assert found.shape == (2, 48)
    assert (model.method.tasks, model.method.decoders) == ({}, {})
