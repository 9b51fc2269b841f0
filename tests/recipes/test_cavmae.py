from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mmim.errors import CheckpointError
from mmim.layers.block import Block
from mmim.model import MaskedModel, Step
from mmim.objectives.contrastive import Contrastive
from mmim.options import apply
from mmim.records import Split
from recipes.cavmae import CAVMAE, SIZES
from tests.parity import (
    F32,
    F64,
    batch_of_several,
    beyond,
    imported,
    load,
    normalised,
    one_place_on,
    shift,
    split_by_noise,
    tanh_gelu,
    worst,
)
from tests.videomae import float64

FILES = {"cav_mae": {"heads": 4, "decoder_heads": 3}, "cav_mae_two_shared": {"heads": 3, "decoder_heads": 2}}
BANDS = 8  # rows of patches in 128 mel bands
NAMES = ("audio", "image")


def model_of(name, folder):
    """The imported model with the weight and the directions of the reference."""
    reference = load(name)
    model = imported("cavmae", reference, folder, FILES[name])
    weight = reference.settings["contrast_loss_weight"]
    return with_contrastive(model, replace(CAVMAE.objective["contrastive"], weight=weight)), reference


def with_contrastive(model, term):
    """The same weights, with another contrastive term."""
    made = MaskedModel(replace(model.method, objective=model.method.objective | {"contrastive": term}))
    made.load_state_dict(model.state_dict())
    return made.eval()


def to_ours(ids, places):
    """Places of a spectrogram: theirs run band by band, ours frame by frame."""
    frames = places // BANDS
    return ids % frames * BANDS + ids // frames


def in_our_order(rows):
    """All tokens of a spectrogram `[b n ...]`, from their order to ours."""
    n = rows.shape[1]
    return rows[:, to_ours(torch.arange(n), n).argsort()]


def turned(values):
    """Values of a patch from (mel, time) to (time, mel)."""
    return values.unflatten(-1, (16, 16)).transpose(-1, -2).flatten(-2)


def splits_of(reference):
    """What the reference kept, in its order, and what it hid."""
    splits = {}
    for name in NAMES:
        kept, restore = (reference.tensors[f"mask/ids_{part}_{name}"] for part in ("keep", "restore"))
        hidden = restore.argsort(dim=1)[:, kept.shape[1] :]
        n = restore.shape[1]
        splits[name] = Split(*(to_ours(ids, n) if name == "audio" else ids for ids in (kept, hidden)))
    return splits


def batch_from(reference, dtype):
    audio, image = (reference.tensors[f"input/{name}"].to(dtype) for name in NAMES)
    return batch_of_several({"audio": audio[:, None], "image": image})


def expected_of(reference, splits):
    """The official outputs in our order of tokens and values."""
    out = reference.part("out/")
    for part in ("pred", "target"):
        out[f"{part}_audio"] = turned(out[f"{part}_audio"])
    for name in ("pred_audio", "target_audio", "loss_per_token_audio", "feature_audio"):
        out[name] = in_our_order(out[name])
    for name, split in splits.items():
        rows = torch.arange(len(split.ids_masked))[:, None]
        for part in ("pred", "target", "loss_per_token"):
            out[f"{part}_{name}"] = out[f"{part}_{name}"][rows, split.ids_masked]
    return out


def found_by(model, reference, splits, dtype):
    """The same of our model."""
    batch, weight = batch_from(reference, dtype), model.method.objective["contrastive"].weight
    losses = {name: term.total / term.count for name, term in model(batch, splits).items()}
    (contrast,) = (loss for name, loss in losses.items() if name.startswith("contrastive"))
    step = Step(model, batch, splits)
    found = {
        "latent": step.latents(("audio", "image")).values,
        "loss_contrastive": contrast,
        "nce": contrast / weight,
        "loss_mae": losses["reconstruction/audio"] + losses["reconstruction/image"],
        "loss": sum(losses.values()),
    }
    for name in NAMES:
        found[f"latent_{name}"] = step.latents((name,), own=True, chained=False).values
        found[f"pred_{name}"], found[f"target_{name}"] = step.prediction(name), step.target(name)
        target = model.method.tasks[name].target
        found[f"loss_per_token_{name}"] = target.loss(step.prediction(name), step.target(name))
        found[f"loss_mae_{name}"] = losses[f"reconstruction/{name}"]
        found[f"feature_{name}"] = model.latents(batch, [name]).values
        found[f"retrieval_{name}"] = F.normalize(model.embed(batch, [name]), dim=-1)
    found["similarity"] = found["retrieval_audio"] @ found["retrieval_image"].mT
    return found


def errors(model, reference, dtype=torch.float64):
    """How far everything is off."""
    with float64() if dtype == torch.float64 else torch.no_grad(), torch.no_grad():
        splits = splits_of(reference)
        found = found_by(model.to(dtype), reference, splits, dtype)
        return worst(found, expected_of(reference, splits))


def too_far(errors, allowed):
    """The errors beyond what is allowed: of targets, of losses and of values."""
    kinds = {name: "loss" if name == "nce" else name.split("_")[0] for name in errors}
    return {name: error for name, error in errors.items() if beyond({kinds[name]: error}, allowed)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, F64), (torch.float32, F32)], ids=["float64", "float32"])
def test_equals_the_official_model(name, dtype, allowed, tmp_path):
    found = errors(*model_of(name, tmp_path), dtype)
    assert too_far(found, allowed) == {}
    assert len(found) == 20


@pytest.mark.parametrize("name", FILES)
def test_both_directions_of_the_contrast_equal_the_official_ones(name, tmp_path):
    model, reference = model_of(name, tmp_path)
    both = with_contrastive(model, replace(model.method.objective["contrastive"], directions="both", weight=1.0))
    with float64(), torch.no_grad():
        term = both.double()(batch_from(reference, torch.float64), splits_of(reference))["contrastive/image_audio"]
        assert term.total / term.count == pytest.approx(reference.tensors["out/nce_both"].item(), abs=2e-6)


def test_hides_exactly_what_the_official_code_hides(tmp_path):
    model, reference = model_of("cav_mae", tmp_path)
    for name in NAMES:
        split = split_by_noise(model, name, reference.tensors[f"mask/noise_{name}"])
        assert torch.equal(split.ids_keep, reference.tensors[f"mask/ids_keep_{name}"])


def exchange_own_norms(model):
    """Sounds get the norms of pictures and the other way round."""
    for owner in [*(block.own for block in model.trunk.encoder.blocks), model.trunk.encoder.own_norm]:
        one, other = owner["audio"], owner["image"]
        owner["audio"], owner["image"] = other, one


def drop_branch_block(model):
    del model.trunk.encoder.branches["audio"][-1]


def changed(**values):
    return lambda model: with_contrastive(model, replace(model.method.objective["contrastive"], **values))


MUTATIONS = {
    "block eps": lambda model: setattr(model.trunk.encoder.branches["image"][2].norm1, "eps", 1e-6),
    "shared block eps": lambda model: setattr(model.trunk.encoder.blocks[0].norm2, "eps", 1e-6),
    "own norm eps": lambda model: setattr(model.trunk.encoder.own_norm["audio"], "eps", 1e-6),
    "decoder eps": lambda model: setattr(model.decoders["shared"].norm, "eps", 1e-6),
    "own norms exchanged": exchange_own_norms,
    "one own norm": lambda model: shift(model.trunk.encoder.blocks[0].own["image"]["norm1"].weight),
    "modality vector": lambda model: shift(model.trunk.encoder.vectors["audio"]),
    "decoder vector": lambda model: shift(model.decoders["shared"].vectors["image"]),
    "mask token": lambda model: shift(model.decoders["shared"].mask_token),
    "tanh gelu": lambda model: tanh_gelu(model.trunk.encoder.branches["audio"][3]),
    "a block too few": drop_branch_block,
    "positions of the other order": lambda model: setattr(model.trunk.positions["audio"], "order", "sincos"),
    "row first in the picture": lambda model: setattr(model.trunk.positions["image"], "order", "sincos_row_first"),
    "decoder positions": lambda model: one_place_on(model.decoders["shared"].positions["audio"]),
    "temperature": changed(temperature=0.07),
    "direction": changed(pairs=(("audio", "image"),)),
    "both directions": changed(directions="both"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parity_notices_a_fault(mutation, tmp_path):
    model, reference = model_of("cav_mae", tmp_path)
    other = MUTATIONS[mutation](model)
    model = other if isinstance(other, MaskedModel) else model
    assert too_far(errors(model, reference), F64)


def test_parity_notices_which_blocks_the_contrast_passes(tmp_path):
    model, reference = model_of("cav_mae_two_shared", tmp_path)
    chained = with_contrastive(model, replace(model.method.objective["contrastive"], chained=True))
    assert {"nce", "loss"} <= set(too_far(errors(chained, reference), F64))


# Official classes hold these as parameters; ours are functions, or are not there at all.
TABLES = (512 + 196) * (768 + 512)
IDLE_NORMS = 4 * 2 * (22 * 768 + 8 * 512)


def test_has_as_many_parameters_as_the_paper():
    with torch.device("meta"):
        model = MaskedModel(CAVMAE)
    learned = sum(parameter.numel() for parameter in model.parameters()) + TABLES + IDLE_NORMS
    assert learned / 1e6 == pytest.approx(191.04, abs=0.005)  # fact sheet 3.7


def test_hides_as_many_tokens_as_the_paper():
    assert {name: modality.grid() for name, modality in CAVMAE.modalities.items()} == {
        "audio": (64, 8),
        "image": (14, 14),
    }
    assert (CAVMAE.budget.num_keep(512), CAVMAE.budget.num_keep(196)) == (128, 49)  # fact sheet 2.2


def toy(**changes):
    sizes = {"modalities.audio.frames": 64, "modalities.image.size": (32, 32), "modalities.image.patch": 8}
    return apply(CAVMAE, SIZES["tiny"] | sizes | changes)


def raw_batch(recipe):
    """Noise to see and to hear."""
    noise = torch.Generator().manual_seed(0)
    blank = recipe.modalities["audio"].blank()
    samples = torch.randint(-8000, 8000, (4, len(blank["samples"])), generator=noise, dtype=torch.int16)
    image = torch.randint(0, 255, (4, 3, 32, 32), generator=noise, dtype=torch.uint8)
    audio = {"samples": samples, "length": blank["length"].expand(4)}
    return replace(batch_of_several({"image": image}), views={"main": {"audio": audio, "image": image}}, present=BOTH)


BOTH = {name: torch.ones(4, dtype=torch.bool) for name in NAMES}


@pytest.mark.parametrize(
    ("off", "terms", "idle"),
    [
        ("contrastive", {"reconstruction/audio", "reconstruction/image"}, ()),
        ("reconstruction", {"contrastive/image_audio"}, ("shared",)),
    ],
)
def test_each_half_of_the_objective_trains_alone(off, terms, idle):
    recipe = toy(**{f"objective.{off}.weight": 0.0})
    torch.manual_seed(0)
    model = MaskedModel(recipe)
    assert set(CAVMAE.decoders) - set(model.decoders) == set(idle)
    losses = model(raw_batch(recipe))
    assert set(losses) == terms
    optimiser = recipe.optimiser.build(model, 4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(term.total / term.count for term in losses.values()).backward()
    optimiser.step()
    embedder = "trunk.embedders.audio.proj.weight"
    assert not torch.equal(before[embedder], model.get_parameter(embedder))


def test_only_shared_blocks_have_norms_of_single_modalities():
    with torch.device("meta"):
        model = MaskedModel(toy())
    own = {name for name, part in model.named_modules() if isinstance(part, Block) and len(part.own)}
    assert own == {"trunk.encoder.blocks.0"}


def test_the_contrast_is_one_of_pictures_among_sounds():
    term = CAVMAE.objective["contrastive"]
    assert term == Contrastive(
        pairs=(("image", "audio"),), directions="one", temperature=0.05, chained=False, weight=0.01
    )


def test_a_file_of_pictures_alone_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no 'patch_embed_a\.proj\.weight', so it is not of this format"):
        imported("cavmae", load("mae_norm_pix"), tmp_path, {})


def test_normalised_modalities_are_the_recipes_otherwise(tmp_path):
    model, _ = model_of("cav_mae", tmp_path)
    audio = model.method.modalities["audio"]
    assert audio == normalised(replace(CAVMAE.modalities["audio"], frames=64))
