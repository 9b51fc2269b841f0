from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.decoders.decoder import Query
from mmim.encoders.joint import JointEncoder
from mmim.encoders.swin import SwinEncoder
from mmim.errors import OptionError
from mmim.records import Latents
from tests.toy import Toy, tokens
from tests.videomae import redraw

MODALITIES = {"a": Toy(), "b": Toy(), "c": Toy()}
TASKS = {"raw": ("a", 3), "fine": ("a", 5)}
ENCODER = JointEncoder(width=8, heads=2)
LAYOUT = (("a", 24), ("b", 8))
PLACES = [[0, 5, 25, 7], [30, 2, 1, 9]]


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    module = CrossAttentionDecoder(width=16, depth=2, heads=2).build(MODALITIES, ENCODER, TASKS)
    redraw(module)
    return module.double().eval()


@pytest.fixture
def made():
    return {"a": tokens(2, (4, 2, 3)), "b": tokens(2, (2, 2, 2))}


@pytest.fixture
def latents():
    return Latents(randn(2, 4, 8), torch.tensor(PLACES), LAYOUT, globals=randn(2, 1, 8, seed=1))


@pytest.fixture
def queries(made):
    return {"a": Query(made["a"], torch.tensor([[1, 2, 3], [0, 3, 4]]))}


def same(found, expected):
    assert found.keys() == expected.keys()
    for task in found:
        assert_close(found[task], expected[task], rtol=1e-10, atol=1e-10)


def differs(one, other):
    return {task for task in one if not torch.allclose(one[task], other[task])} == set(TASKS)


def test_every_task_gets_its_numbers_at_the_places_of_its_modality(decoder, latents, made, queries):
    shapes = {task: tuple(pred.shape) for task, pred in decoder(latents, made, queries).items()}
    assert shapes == {"raw": (2, 3, 3), "fine": (2, 3, 5)}


def test_the_order_of_latents_does_not_matter(decoder, latents, made, queries):
    order = [2, 0, 3, 1]
    shuffled = replace(latents, values=latents.values[:, order], at=latents.at[:, order])
    same(decoder(shuffled, made, queries), decoder(latents, made, queries))


def test_the_order_of_modalities_does_not_matter(decoder, latents, made, queries):
    at = torch.where(latents.at < 24, latents.at + 8, latents.at - 24)
    turned = replace(latents, at=at, layout=LAYOUT[::-1])
    same(decoder(turned, made, queries), decoder(latents, made, queries))


def test_padded_latents_change_nothing(decoder, latents, made, queries):
    padded = replace(
        latents,
        values=torch.cat([latents.values, torch.full((2, 3, 8), 1e3)], dim=1),
        at=torch.cat([latents.at, torch.tensor([[11, 12, 26], [11, 12, 26]])], dim=1),
        valid=torch.arange(7).expand(2, 7) < 4,
    )
    same(decoder(padded, made, queries), decoder(latents, made, queries))


def test_padded_queries_change_nothing_for_the_others(decoder, latents, made):
    valid = torch.arange(24).expand(2, 24) < 16
    padded, ids = replace(made["a"], valid=valid), torch.tensor([[3, 15], [3, 15]])
    found = decoder(latents, made | {"a": padded}, {"a": Query(padded, ids)})
    cut = replace(made["a"], values=made["a"].values[:, :16], coords=made["a"].coords[:, :16])
    shorter = replace(
        latents, at=torch.where(latents.at < 16, latents.at, latents.at - 8), layout=(("a", 16), ("b", 8))
    )
    same(found, decoder(shorter, made | {"a": cut}, {"a": Query(cut, ids)}))


def test_a_prediction_belongs_to_its_place(decoder, latents, made, queries):
    turned = {"a": replace(queries["a"], ids=queries["a"].ids.flip(1))}
    found, expected = decoder(latents, made, turned), decoder(latents, made, queries)
    same({task: pred.flip(1) for task, pred in found.items()}, expected)
    assert not torch.allclose(expected["raw"][:, 0], expected["raw"][:, 1])


def test_what_is_asked_for_changes_no_other_prediction(decoder, latents, made, queries):
    fewer = {"a": replace(queries["a"], ids=queries["a"].ids[:, 1:])}
    expected = {task: pred[:, 1:] for task, pred in decoder(latents, made, queries).items()}
    same(decoder(latents, made, fewer), expected)


@pytest.mark.parametrize("change", ["values", "at", "globals"])
def test_a_prediction_depends_on_what_is_visible_and_where(decoder, latents, made, queries, change):
    other = replace(latents, **{change: getattr(latents, change) + 1})
    assert differs(decoder(other, made, queries), decoder(latents, made, queries))


def test_another_modality_is_looked_at(decoder, latents, made, queries):
    values = latents.values.clone()
    values[0, 2] += 1  # of b
    found, expected = decoder(replace(latents, values=values), made, queries), decoder(latents, made, queries)
    assert not torch.allclose(found["raw"][0], expected["raw"][0])
    assert torch.equal(found["raw"][1], expected["raw"][1])


def test_a_visible_place_asks_with_its_latent_and_a_hidden_one_with_the_mask_token(decoder, latents, made):
    asks = {"a": Query(made["a"], torch.tensor([[5, 6], [2, 3]]))}  # of each sample a visible and a hidden place
    decoder.blocks = torch.nn.ModuleList()  # in which all places meet
    before = decoder(latents, made, asks)["raw"]
    with torch.no_grad():
        decoder.mask_token.add_(randn(16, seed=3))
    after = decoder(latents, made, asks)["raw"]
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.isclose(after[:, 1], before[:, 1]).any()


def test_cross_attention_replaces_the_queries(decoder, latents, made, queries):
    with torch.no_grad():
        for part in (decoder.cross.proj, decoder.mlp.fc2):
            part.weight.zero_()
    decoder.blocks = torch.nn.ModuleList()
    found = decoder(latents, made, queries)["raw"]
    assert_close(found, found[:1, :1].expand_as(found))  # nothing of what was asked is left


def test_a_sample_without_anything_gives_finite_numbers_and_changes_no_other(decoder, latents, made, queries):
    bare = replace(latents, globals=None, valid=torch.tensor([[True] * 4, [False] * 4]))
    full = replace(latents, globals=None, valid=torch.ones(2, 4, dtype=torch.bool))
    found, expected = decoder(bare, made, queries), decoder(full, made, queries)
    assert all(pred.isfinite().all() for pred in found.values())
    same({task: pred[:1] for task, pred in found.items()}, {task: pred[:1] for task, pred in expected.items()})


def test_a_modality_that_is_no_input_can_be_asked_for(made, latents):
    module = CrossAttentionDecoder(width=16, depth=1, heads=2).build(MODALITIES, ENCODER, {"other": ("c", 2)}).double()
    redraw(module)
    there = made | {"c": tokens(2, (2, 2, 2))}
    found = module(latents, there, {"c": Query(there["c"], torch.tensor([[0, 7], [3, 4]]))})["other"]
    assert found.shape == (2, 2, 2)
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_two_modalities_are_refused():
    with pytest.raises(OptionError, match="predicts one modality, and its tasks ask for a, b: give each a decoder"):
        CrossAttentionDecoder(width=16, heads=2).build(MODALITIES, ENCODER, {"x": ("a", 3), "y": ("b", 3)})


def test_an_encoder_with_a_stride_is_refused():
    with pytest.raises(OptionError, match="SwinEncoder has a stride of 8: use the linear decoder"):
        CrossAttentionDecoder(width=16, heads=2).build(MODALITIES, SwinEncoder(), TASKS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"decoder\.width"),
        ({"depth": -1}, r"decoder\.depth"),
        ({"heads": 0}, r"decoder\.heads"),
        ({"eps": 0.0}, r"decoder\.eps"),
        ({"mlp_ratio": 0.0}, r"decoder\.mlp_ratio"),
    ],
)
def test_sizes_that_are_none_are_refused(fields, message):
    with pytest.raises(OptionError, match=message):
        CrossAttentionDecoder(**fields)
