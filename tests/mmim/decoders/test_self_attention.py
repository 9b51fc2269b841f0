from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mmim.decoders.decoder import Query
from mmim.decoders.self_attention import SelfAttentionDecoder, SelfAttentionDecoderModule
from mmim.records import Latents, Tokens
from tests.toy import TOY, Toy, tokens
from tests.videomae import redraw

MODALITIES = {"a": Toy(), "b": Toy()}
TASKS = {"raw": ("a", 3), "fine": ("a", 5), "other": ("b", 2)}
LAYOUT = (("a", 24), ("b", 8))


@pytest.fixture
def decoder() -> SelfAttentionDecoderModule:
    module = SelfAttentionDecoder(width=16, depth=2, heads=2).build(MODALITIES, 8, TASKS)
    redraw(module)
    return module.double().eval()


@pytest.fixture
def made() -> dict[str, Tokens]:
    return {"a": tokens(2, (4, 2, 3)), "b": tokens(2, (2, 2, 2))}


@pytest.fixture
def latents() -> Latents:
    generator = torch.Generator().manual_seed(0)
    at = torch.tensor([[0, 5, 25, 7], [30, 2, 1, 9]])
    return Latents(torch.randn(2, 4, 8, dtype=torch.float64, generator=generator), at, LAYOUT)


@pytest.fixture
def queries(made) -> dict[str, Query]:
    return {
        "a": Query(made["a"], torch.tensor([[1, 2, 3], [0, 3, 4]])),
        "b": Query(made["b"], torch.tensor([[0, 2], [1, 3]])),
    }


def same(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_every_task_gets_its_numbers_at_the_places_of_its_modality(decoder, latents, made, queries):
    shapes = {task: tuple(pred.shape) for task, pred in decoder(latents, made, queries).items()}
    assert shapes == {"raw": (2, 3, 3), "fine": (2, 3, 5), "other": (2, 2, 2)}


def test_the_order_of_visible_tokens_does_not_matter(decoder, latents, made, queries):
    order = [2, 0, 3, 1]
    shuffled = replace(latents, values=latents.values[:, order], at=latents.at[:, order])
    same(decoder(shuffled, made, queries), decoder(latents, made, queries))


def test_a_prediction_belongs_to_its_place(decoder, latents, made, queries):
    turned = {"a": replace(queries["a"], ids=queries["a"].ids.flip(1)), "b": queries["b"]}
    found, expected = decoder(latents, made, turned), decoder(latents, made, queries)
    same(found["raw"].flip(1), expected["raw"])
    same(found["other"], expected["other"])
    assert not torch.allclose(expected["raw"][:, 0], expected["raw"][:, 1])


@pytest.mark.parametrize("change", ["values", "at"])
def test_a_prediction_depends_on_what_is_visible_and_where(decoder, latents, made, queries, change):
    other = replace(latents, **{change: getattr(latents, change) + 1})
    assert not torch.allclose(decoder(other, made, queries)["raw"], decoder(latents, made, queries)["raw"])


def test_padded_latents_and_queries_change_nothing(decoder, latents, made, queries):
    padded = Latents(
        torch.cat([latents.values, 1e3 * torch.ones(2, 2, 8)], dim=1),
        torch.cat([latents.at, torch.tensor([[11, 12], [11, 12]])], dim=1),
        LAYOUT,
        (torch.arange(6) < 4).expand(2, 6),
    )
    more = Query(
        made["a"], torch.cat([queries["a"].ids, torch.tensor([[8], [8]])], dim=1), (torch.arange(4) < 3).expand(2, 4)
    )
    found, expected = decoder(padded, made, {**queries, "a": more}), decoder(latents, made, queries)
    same(found["raw"][:, :3], expected["raw"])
    same(found["other"], expected["other"])


def test_a_modality_that_the_encoder_did_not_see_can_be_predicted(decoder, latents, made, queries):
    alone = replace(latents, at=latents.at % 24, layout=LAYOUT[:1])
    assert decoder(alone, made, queries)["other"].isfinite().all()


def test_a_fresh_mask_token_is_small_and_heads_start_without_bias():
    torch.manual_seed(0)
    module = TOY.decoders["toy"].build(TOY.modalities, 8, {"toy": ("toy", 4)})
    assert 0 < module.mask_token.std() < 0.04
    assert not module.heads["toy"].bias.any()


def test_the_projection_may_lack_its_bias():
    module = SelfAttentionDecoder(width=16, depth=1, heads=2, embed_bias=False).build(MODALITIES, 8, TASKS)
    assert module.embed.bias is None
