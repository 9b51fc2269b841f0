from dataclasses import dataclass, replace

import pytest
import torch
from torch.testing import assert_close

from mmim.decoders.decoder import Query
from mmim.decoders.self_attention import SelfAttentionDecoder, SelfAttentionDecoderModule
from mmim.encoders.joint import JointEncoder
from mmim.errors import OptionError
from mmim.records import Latents, Tokens
from tests.toy import TOY, Toy, tokens
from tests.videomae import redraw

MODALITIES = {"a": Toy(), "b": Toy()}
TASKS = {"raw": ("a", 3), "fine": ("a", 5), "other": ("b", 2)}
ENCODER = JointEncoder(width=8, heads=2)
LAYOUT = (("a", 24), ("b", 8))


@pytest.fixture
def decoder() -> SelfAttentionDecoderModule:
    module = SelfAttentionDecoder(width=16, depth=2, heads=2).build(MODALITIES, ENCODER, TASKS)
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
    module = TOY.decoders["toy"].build(TOY.modalities, TOY.encoder, {"toy": ("toy", 4)})
    assert 0 < module.mask_token.std() < 0.04
    assert not module.heads["toy"].bias.any()


def test_the_projection_may_lack_its_bias():
    module = SelfAttentionDecoder(width=16, depth=1, heads=2, embed_bias=False).build(MODALITIES, ENCODER, TASKS)
    assert module.embed.bias is None


def test_global_tokens_are_seen(decoder, latents, made, queries):
    with_globals = replace(latents, globals=torch.ones(2, 1, 8, dtype=torch.float64))
    found = decoder(with_globals, made, queries)
    assert found["raw"].shape == (2, 3, 3)
    assert not torch.allclose(found["raw"], decoder(latents, made, queries)["raw"])


def test_a_global_token_has_no_position(decoder, latents, made, queries):
    decoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    seen: list[torch.Tensor] = []
    decoder(replace(latents, globals=torch.ones(2, 1, 8, dtype=torch.float64)), made, queries)
    same(seen[0][:, -1], decoder.embed(torch.ones(2, 8, dtype=torch.float64)))


def test_projecting_last_gives_positions_and_mask_token_the_width_of_the_encoder(latents, made, queries):
    module = SelfAttentionDecoder(width=16, depth=1, heads=2, project="last").build(MODALITIES, ENCODER, TASKS)
    assert module.mask_token.shape == (1, 1, 8)
    assert module.double()(latents, made, queries)["raw"].shape == (2, 3, 3)


@dataclass(frozen=True, kw_only=True)
class Coarse(JointEncoder):
    """An encoder whose latents stand for several tokens."""

    @property
    def stride(self) -> int:
        return 4


def test_latents_that_stand_for_several_tokens_are_refused():
    with pytest.raises(OptionError, match="one latent per token, and Coarse has a stride of 4: use the linear decoder"):
        SelfAttentionDecoder(width=16, heads=2).build(MODALITIES, Coarse(width=8, heads=2), TASKS)


def test_without_a_projection_latents_enter_as_they_are(latents, made, queries):
    config = SelfAttentionDecoder(width=8, depth=1, heads=2, project="none")
    module = config.build(MODALITIES, ENCODER, TASKS).double()
    assert list(module.embed.parameters()) == []
    seen: list[torch.Tensor] = []
    module.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    module(latents, made, queries)
    codes = torch.cat([module.positions[name](made[name])[0] for name in "ab"])
    same(seen[0][:, :4], latents.values + codes[latents.at])


def test_without_a_projection_the_widths_are_equal():
    with pytest.raises(OptionError, match="has the encoder's width, 8, and this one 16"):
        SelfAttentionDecoder(width=16, heads=2, project="none").build(MODALITIES, ENCODER, TASKS)


def test_positions_before_every_block_are_added_to_what_each_gets(latents, made, queries):
    config = SelfAttentionDecoder(width=16, depth=2, heads=2, positions="every_block")
    module = config.build(MODALITIES, ENCODER, TASKS)
    redraw(module)
    module = module.double().eval()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in module.blocks:
        block.register_forward_hook(lambda module, inputs, out: seen.append((inputs[0], out)))
    module(replace(latents, globals=torch.ones(2, 1, 8, dtype=torch.float64)), made, queries)
    codes = torch.cat([module.positions[name](made[name])[0] for name in "ab"])[latents.at]
    same(seen[0][0][:, :4], module.embed(latents.values) + codes)
    same(seen[1][0][:, :4], seen[0][1][:, :4] + codes)
    same(seen[1][0][:, -1], seen[0][1][:, -1])  # a global token has none


def test_positions_before_every_block_have_no_width_of_their_own():
    with pytest.raises(OptionError, match="use positions once"):
        SelfAttentionDecoder(project="last", positions="every_block")


def test_what_is_asked_for_may_be_another_sequence(decoder, latents, made, queries):
    other = replace(made["a"], coords=made["a"].coords.flip(1))
    found = decoder(latents, made, {**queries, "a": replace(queries["a"], tokens=other)})
    turned = replace(queries["a"], ids=23 - queries["a"].ids)
    same(found, decoder(latents, made, {**queries, "a": turned}))
