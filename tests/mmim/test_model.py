import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from mmim.corruption.mask_token import MaskToken
from mmim.corruption.substitute import Substitute
from mmim.data.loader import in_order, load
from mmim.data.sources import find_samples
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.swin import SwinEncoder
from mmim.errors import OptionError
from mmim.masking.budget import Ratio
from mmim.masking.tube import TubeMasking
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Batch, gather_tokens
from mmim.targets.pixels import Pixels
from tests.toy import TOY, Toy
from tests.videomae import batch_of, float64, random_clips, redraw, toy
from tests.words import WORDS, Words

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model() -> Iterator[MaskedModel]:
    """In float64, with every parameter re-drawn."""
    with float64():
        model = MaskedModel(toy()).eval()
        redraw(model)
        yield model


def mean_loss(model, batch, splits=None):
    term = model(batch, splits)["reconstruction/video"]
    return term.total / term.count


def test_masked_values_never_reach_the_encoder(model):
    clips = random_clips(2)
    step = Step(model, batch_of(clips))
    hidden = torch.zeros(2, step.tokens["video"].count, dtype=torch.bool).scatter(
        1, step.splits["video"].ids_masked, True
    )
    modality = model.method.modalities["video"]
    places = hidden[..., None, None, None, None].expand(step.tokens["video"].values.shape).double()
    pixels = modality.untokenize(places, step.tokens["video"]).bool()
    changed = torch.where(pixels, random_clips(2, seed=1), clips)
    assert (changed != clips).any()
    assert_close(Step(model, batch_of(changed)).latents().values, step.latents().values, rtol=0, atol=0)


def test_visible_values_do_reach_the_encoder(model):
    clips = random_clips(2)
    assert not torch.equal(
        Step(model, batch_of(255 - clips)).latents().values, Step(model, batch_of(clips)).latents().values
    )


def test_visible_and_masked_partition_the_tokens(model):
    split = Step(model, batch_of(random_clips(3))).splits["video"]
    both = torch.cat([split.ids_keep, split.ids_masked], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(both.shape[1]).expand_as(both))


def test_a_sample_gets_the_same_mask_and_latents_in_any_batch(model):
    clips, keys = random_clips(6), torch.arange(6) * 7919
    whole = Step(model, batch_of(clips, keys))
    part = Step(model, batch_of(clips[2:5], keys[2:5]))
    assert torch.equal(part.splits["video"].ids_keep, whole.splits["video"].ids_keep[2:5])
    assert_close(part.latents().values, whole.latents().values[2:5], rtol=1e-12, atol=1e-12)


def test_another_visit_gets_another_mask(model):
    clips = random_clips(2)
    first, second = (
        Step(model, batch_of(clips, torch.tensor(keys))).splits["video"].ids_keep for keys in ((1, 2), (3, 4))
    )
    assert not torch.equal(first, second)


def test_counts_equal_those_of_the_losses(model):
    batch = batch_of(random_clips(4), present=torch.tensor([True, False, True, True]))
    losses = model(batch)
    assert {name: float(n) for name, n in model.counts(batch).items()} == {
        name: t.count.item() for name, t in losses.items()
    }


def test_absent_samples_add_nothing_to_the_loss(model):
    clips = random_clips(4)
    present = torch.tensor([True, False, True, False])
    zeroed = torch.where(present[:, None, None, None, None], clips, torch.zeros_like(clips))
    keys = torch.arange(4)
    some = model(batch_of(zeroed, keys, present))["reconstruction/video"]
    kept = model(batch_of(clips[present], keys[present]))["reconstruction/video"]
    assert_close(some.total, kept.total, rtol=1e-12, atol=0)
    assert float(some.count) == float(kept.count)


def test_garbage_in_absent_samples_changes_nothing(model):
    present = torch.tensor([True, False])
    clips = random_clips(2)
    garbage = torch.stack([clips[0], random_clips(1, seed=5)[0]])
    assert_close(
        mean_loss(model, batch_of(garbage, present=present)),
        mean_loss(model, batch_of(clips, present=present)),
        rtol=0,
        atol=0,
    )


def test_a_batch_without_anyone_gives_zero_and_finite_gradients(model):
    batch = batch_of(torch.zeros_like(random_clips(2)), present=torch.tensor([False, False]))
    term = model(batch)["reconstruction/video"]
    term.total.backward()
    assert term.total.item() == 0
    assert term.count.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_every_parameter_gets_a_gradient(model):
    mean_loss(model, batch_of(random_clips(2))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradients_equal_finite_differences(model):
    batch = batch_of(random_clips(1))
    mean_loss(model, batch).backward()
    for parameter in (
        model.trunk.encoder.blocks[0].attn.q_bias,
        model.decoders["video"].mask_token,
        model.trunk.embedders["video"].proj.weight,
    ):
        flat, index, h = parameter.data.view(-1), parameter.grad.abs().argmax(), 1e-5
        flat[index] += h
        above = mean_loss(model, batch).item()
        flat[index] -= 2 * h
        below = mean_loss(model, batch).item()
        flat[index] += h
        assert (above - below) / (2 * h) == pytest.approx(parameter.grad.view(-1)[index].item(), rel=1e-6, abs=1e-9)


@dataclass(frozen=True)
class Multiplied(Pixels):
    """Pixels after a matrix product, which autocast would make in bf16."""

    def values(self, tokens, ids, modality):
        values = super().values(tokens, ids, modality)
        return values @ torch.eye(values.shape[-1])


def test_targets_and_losses_stay_in_full_precision_under_bf16():
    torch.manual_seed(0)
    model = MaskedModel(apply(toy(), {"tasks.video.target": Multiplied(normalise="channel", units="raw")})).eval()
    batch = batch_of(random_clips(2))
    expected = Step(model, batch).target("video")
    with torch.autocast("cpu", torch.bfloat16):
        step = Step(model, batch)
        assert step.prediction("video").dtype == torch.bfloat16
        assert torch.equal(step.target("video"), expected)
        assert expected.dtype == torch.float32
        assert model(batch)["reconstruction/video"].total.dtype == torch.float32


def test_half_of_two_batches_sums_to_the_whole(model):
    clips, keys = random_clips(4), torch.arange(4)
    whole = model(batch_of(clips, keys))["reconstruction/video"]
    parts = [model(batch_of(clips[i : i + 2], keys[i : i + 2]))["reconstruction/video"] for i in (0, 2)]
    assert_close(sum(p.total for p in parts), whole.total, rtol=1e-12, atol=0)


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = MaskedModel(toy(width=64))
    batch = batch_of(random_clips(2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(300):
        loss = mean_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_embedding_is_the_mean_over_all_tokens(model):
    batch = batch_of(random_clips(2))
    assert model.latents(batch).values.shape == (2, 32, 48)
    assert_close(model.embed(batch), model.latents(batch).values.mean(dim=1))


def test_another_number_of_frames_at_inference_is_as_if_built_for_it(model):
    longer = batch_of(random_clips(2, frames=8))
    built = MaskedModel(toy(frames=8)).eval()
    built.load_state_dict(model.state_dict(), strict=True)
    assert model.latents(longer).values.shape == (2, 64, 48)
    assert_close(model.embed(longer), built.embed(longer), rtol=1e-12, atol=1e-12)


def test_a_still_with_more_frames_stays_nearest_to_itself(model):
    blobs = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255  # large patches of colour
    stills = interpolate(blobs, (32, 32), mode="bilinear").round().to(torch.uint8)[:, :, None]
    one, longer = (model.embed(batch_of(stills.expand(-1, -1, frames, -1, -1))) for frames in (4, 8))
    assert torch.equal(torch.cdist(longer, one).argmin(dim=1), torch.arange(8))


def test_predictions_follow_the_places_that_are_asked_for(model):
    batch = batch_of(random_clips(2))
    step = Step(model, batch)
    split = step.splits["video"]
    turned = {"video": replace(split, ids_masked=split.ids_masked.flip(1))}
    first, second = step.prediction("video"), Step(model, batch, turned).prediction("video")
    assert first.shape[:2] == split.ids_masked.shape
    assert (first - second).abs().max() > 0.01
    assert_close(second, first.flip(1), rtol=1e-10, atol=1e-10)


def test_targets_are_the_normalised_pixels_of_the_hidden_places(model):
    step = Step(model, batch_of(random_clips(2)))
    split = step.splits["video"]
    raw = (
        model.method.modalities["video"]
        .raw(gather_tokens(step.tokens["video"].values, split.ids_masked))
        .movedim(2, -1)
    )
    centred = raw - raw.mean(dim=(2, 3, 4), keepdim=True)
    assert_close(
        step.target("video").reshape(raw.shape) * (raw.var(dim=(2, 3, 4), keepdim=True).sqrt() + 1e-6), centred
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tasks.video.modality", "sound", "modality names 'sound'; there are video"),
        ("tasks.video.decoder", "other", "decoder names 'other'; there are video"),
        ("objective.reconstruction.tasks", ("depth",), "asks for the task 'depth'; there are video"),
        ("masking", {}, "'video' has no masking policy"),
        ("encoder.heads", 5, "5 heads do not divide a width of 48"),
        ("corruption", {"sound": MaskToken()}, "corruption names 'sound'; there are video"),
        ("decoders.video", LinearDecoder(), r"reads hidden places off the encoder's output, and those of 'video'"),
        (
            "encoder",
            SwinEncoder(),
            r"needs whole maps, and the hidden tokens of 'video' are dropped: use .* mask_token",
        ),
    ],
)
def test_what_does_not_fit_fails_at_construction(path, value, message):
    with pytest.raises(OptionError, match=message):
        MaskedModel(apply(toy(), {path: value}))


@pytest.mark.slow
def test_compiles_to_one_graph_that_serves_other_samples_and_epochs():
    done = subprocess.run(  # in a process of its own, where the shape checks of the tests are not in the graph's way
        [sys.executable, str(ROOT / "tests/mmim/compiled.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["graphs"] == 1
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-5)


def test_another_name_for_a_modality_changes_nothing():
    def loss(name: str) -> float:
        recipe = toy()
        recipe = replace(
            recipe,
            modalities={name: recipe.modalities["video"]},
            masking={name: recipe.masking["video"]},
            corruption={name: recipe.corruption["video"]},
            tasks={"video": replace(recipe.tasks["video"], modality=name)},
        )
        torch.manual_seed(0)
        batch = batch_of(random_clips(2))
        renamed = replace(
            batch, views={"main": {name: batch.views["main"]["video"]}}, present={name: batch.present["video"]}
        )
        return mean_loss(MaskedModel(recipe), renamed).item()

    assert loss("film") == loss("video")


def words_batch(lines, folder):
    file = folder / "lines.words"
    file.write_text("\n".join(lines))
    samples = find_samples(folder, {"words": Words()})
    words = Words().prepare([sample.sources["words"] for sample in samples])
    loaded = next(load(samples, {"words": words}, in_order(len(samples), len(samples)), seed=0, workers=0))
    return words, loaded.batch


def test_fixed_tokens_are_hidden_last(tmp_path):
    words, batch = words_batch(["a b c d e", "a b c", "a"] * 4, tmp_path)
    method = replace(WORDS, modalities={"words": words}, budget=Ratio(0.5, rounding="nearest"))
    step = Step(MaskedModel(method), batch)
    query, counted = step.query("words")
    assert counted.sum(dim=1).tolist() == [3, 2, 1] * 4
    assert not (gather_tokens(step.tokens["words"].fixed, query.ids) & counted).any()


def test_raw_content_is_corrupted_by_draws_of_its_own(tmp_path):
    words, batch = words_batch(["a b c d e f", "b c d e f a"] * 4, tmp_path)
    method = replace(
        WORDS,
        modalities={"words": words},
        corruption={"words": Substitute()},
        decoders={"words": LinearDecoder(tied=True)},
    )
    model = MaskedModel(method)
    redraw(model)
    latents = [Step(model, one).latents().values for one in (batch, batch, replace(batch, keys=batch.keys + 1))]
    assert torch.equal(latents[0], latents[1])
    splits = Step(model, batch).splits
    others = Step(model, replace(batch, keys=batch.keys + 1), splits)
    assert not torch.equal(latents[0], others.latents().values)  # the same places hidden, other ids in them
    whole = model.latents(batch).values
    assert torch.equal(whole, model.latents(replace(batch, keys=batch.keys + 1)).values)  # nothing hidden, no draws


def test_a_shared_decoder_does_not_look_at_places_of_what_a_sample_lacks():
    two = ("a", "b")
    recipe = replace(
        TOY,
        modalities={name: Toy() for name in two},
        masking={name: TubeMasking() for name in two},
        tasks={name: replace(TOY.tasks["toy"], modality=name, decoder="shared") for name in two},
        decoders={"shared": TOY.decoders["toy"]},
    )
    model = MaskedModel(recipe)
    redraw(model)
    data = {name: torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)) for name in two}
    keys = torch.arange(2)
    present = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    both = Batch({"main": data}, present, keys, keys, keys[0])
    lone = {"a": torch.tensor([True]), "b": torch.tensor([False])}
    alone = Batch({"main": {"a": data["a"][1:]}}, lone, keys[1:], keys[1:], keys[0])
    with torch.no_grad():
        assert_close(Step(model, both).prediction("a")[1:], Step(model, alone).prediction("a"))
