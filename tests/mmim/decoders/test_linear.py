import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from mmim.decoders.decoder import Query
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.encoders.swin import SwinEncoder
from mmim.errors import OptionError
from mmim.layers.patches import from_patches
from mmim.records import Latents
from tests.toy import Toy, tokens
from tests.videomae import redraw

REFERENCE = Path(__file__).parents[2] / "reference"
ENCODER = JointEncoder(width=8, heads=2)
COARSE = SwinEncoder(width=4, depths=(1, 1), heads=(1, 1))


@dataclass(frozen=True, kw_only=True)
class Map(Toy):
    """Tokens on a grid."""

    size: tuple[int, ...] | None = (4, 6)

    def grid(self) -> tuple[int, ...] | None:
        return self.size


def official_head(
    state: dict[str, Tensor], patch: int, stride: int = 1, decoder: str = "image", task: str = "image"
) -> dict[str, Tensor]:
    """SimMIM's `decoder.0`, a convolution whose channels are (colour, row, column) of a square of pixels.

    stride: tokens along an axis that a latent stands for. Our rows are (token row, token column), inside a token
    (row, column, colour), as the target Pixels has them.
    """
    order = "(c s r t q) ... -> (s t r q c) ..."
    sizes = {"s": stride, "t": stride, "r": patch, "q": patch}
    return {
        f"decoders.{decoder}.heads.{task}.weight": rearrange(state["decoder.0.weight"][..., 0, 0], order, **sizes),
        f"decoders.{decoder}.heads.{task}.bias": rearrange(state["decoder.0.bias"], order, **sizes),
    }


def read(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """Constructor, official weights, and everything else of a reference file."""
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["constructor"])
    return config, {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}, tensors


def load(module: torch.nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> torch.nn.Module:
    module.load_state_dict({name.removeprefix("decoders.image."): tensor for name, tensor in weights.items()})
    return module.to(dtype).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize(("name", "stride"), [("simmim_vit", 1), ("simmim_swin", 8)])
def test_agrees_with_the_official_head(name, stride, dtype, tolerance):
    config, state, tensors = read(name)
    patch, size = config["encoder"]["patch_size"], config["encoder"]["img_size"]
    grid, latent = (size // patch, size // patch), tensors["out/latent"]
    encoder = COARSE if stride > 1 else ENCODER
    encoder = replace(encoder, width=latent.shape[1] // stride)
    encoder = replace(encoder, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)) if stride > 1 else encoder
    module = LinearDecoder().build({"image": Map(size=grid)}, encoder, {"image": ("image", 3 * patch**2)})
    load(module, official_head(state, patch, stride), dtype)

    values = rearrange(latent, "b d h w -> b (h w) d").to(dtype)
    at, made = torch.arange(values.shape[1]).expand(len(values), -1), tokens(len(values), grid)
    query = Query(made, torch.arange(made.count).expand(len(values), -1))
    found = module(Latents(values, at, (("image", values.shape[1]),)), {"image": made}, {"image": query})["image"]
    picture = from_patches(rearrange(found, "b n (r q c) -> b n c r q", r=patch, q=patch), grid)
    assert ((picture - tensors["out/pred"]).abs() / tensors["out/pred"].abs().clamp(min=1)).max() < tolerance


def scene(n: int, b: int = 2, width: int = 8, seed: int = 0) -> Latents:
    """Latents everywhere, in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.stack([torch.randperm(n, generator=generator) for _ in range(b)])
    return Latents(torch.randn(b, n, width, generator=generator), at, (("a", n),))


def decoder(encoder=ENCODER, tasks=None, **modalities):
    module = LinearDecoder().build(modalities or {"a": Map()}, encoder, tasks or {"raw": ("a", 3)})
    redraw(module)
    return module.eval()


def ask(ids: list[list[int]], grid: tuple[int, ...] = (4, 6)) -> tuple[dict, dict]:
    made = tokens(len(ids), grid)
    return {"a": made, "b": made}, {"a": Query(made, torch.tensor(ids))}


def test_a_prediction_is_the_head_at_the_latent_of_its_place():
    module, latents = decoder(), scene(24)
    found = module(latents, *ask([[5, 0, 23], [7, 7, 1]]))["raw"]
    for b, row in enumerate([[5, 0, 23], [7, 7, 1]]):
        for m, place in enumerate(row):
            latent = latents.values[b, latents.at[b].tolist().index(place)]
            assert_close(found[b, m], module.heads["raw"](latent))


def test_a_coarse_latent_predicts_its_tokens_in_raster_order():
    module, latents = decoder(COARSE), scene(6)
    ids = list(range(24))
    found = module(latents, *ask([ids, ids]))["raw"]
    for place in ids:
        row, column = divmod(place, 6)
        at = latents.at[1].tolist().index(row // 2 * 3 + column // 2)
        inside = row % 2 * 2 + column % 2
        expected = module.heads["raw"](latents.values[1, at])[3 * inside : 3 * inside + 3]
        assert_close(found[1, place], expected)


@pytest.mark.parametrize("encoder", [ENCODER, COARSE], ids=["fine", "coarse"])
def test_only_what_is_asked_comes_back_in_the_order_of_the_query(encoder):
    module, latents = decoder(encoder), scene(24 // encoder.stride**2)
    everything = list(range(24))
    whole = module(latents, *ask([everything, everything]))["raw"]
    assert torch.equal(
        module(latents, *ask([[9, 2], [2, 21]]))["raw"], torch.stack([whole[0, [9, 2]], whole[1, [2, 21]]])
    )


@pytest.mark.parametrize("encoder", [ENCODER, COARSE], ids=["fine", "coarse"])
def test_another_modality_beside_it_and_padding_change_nothing(encoder):
    module, n = decoder(encoder, a=Map(), b=Map()), 24 // encoder.stride**2
    latents, asked = scene(n), ask([[9, 2], [2, 21]])
    others = torch.tensor([[0, 4, n + 5, n + 5]] * 2)  # two of b, and two that are padding where a's last one stands
    both = Latents(
        torch.cat([1e3 * torch.ones(2, 4, 8), latents.values], dim=1),
        torch.cat([others, latents.at + 5], dim=1),
        (("b", 5), ("a", n)),
        torch.cat([torch.tensor([[True, True, False, False]] * 2), torch.ones(2, n, dtype=torch.bool)], dim=1),
        globals=torch.ones(2, 1, 8),
    )
    assert_close(module(both, *asked)["raw"], module(latents, *asked)["raw"])


def test_every_task_has_a_head_of_its_own():
    module = decoder(tasks={"raw": ("a", 3), "fine": ("a", 5)})
    found = module(scene(24), *ask([[0, 1], [2, 3]]))
    assert {task: tuple(pred.shape) for task, pred in found.items()} == {"raw": (2, 2, 3), "fine": (2, 2, 5)}


@pytest.mark.parametrize("size", [(8,), (2, 4, 6)])
def test_grids_of_any_number_of_axes_are_regrouped(size):
    module = decoder(COARSE, a=Map(size=size))
    n = torch.Size(size).numel()
    ids = list(range(n))
    found = module(scene(n // 2 ** len(size)), *ask([ids, ids], size))["raw"]
    assert found.shape == (2, n, 3)
    assert len(found[0].unique(dim=0)) == n


def test_another_grid_than_in_training_works():
    found = decoder(COARSE)(scene(20), *ask([[79, 0], [1, 2]], (8, 10)))["raw"]
    assert found.shape == (2, 2, 3)


def test_heads_start_without_bias():
    module = LinearDecoder().build({"a": Map()}, ENCODER, {"raw": ("a", 3)})
    assert not module.heads["raw"].bias.any()


def test_latents_that_lack_places_are_refused():
    latents = scene(24)
    few = replace(latents, values=latents.values[:, :9], at=latents.at[:, :9])
    with pytest.raises(OptionError, match="all 24 places of 'a', and the encoder gives 9 latents: use the corruption"):
        decoder()(few, *ask([[0], [0]]))


def test_a_stride_needs_a_grid():
    with pytest.raises(OptionError, match="2 tokens along each axis, and the tokens of 'a' are on no grid"):
        decoder(COARSE, a=Map(size=None))


def test_a_transform_is_bert_s_layer_before_the_head():
    module, latents = decoder_of(LinearDecoder(transform=True, eps=1e-3)), scene(24)
    found = module(latents, *ask([[5], [7]]))["raw"]
    row = latents.values[0, latents.at[0].tolist().index(5)]
    hidden = torch.nn.functional.gelu(module.transform.dense(row))
    normed = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-3).sqrt()
    assert_close(found[0, 0], module.heads["raw"](normed * module.transform.norm.weight + module.transform.norm.bias))


def decoder_of(config, tasks=None):
    module = config.build({"a": Map()}, ENCODER, tasks or {"raw": ("a", 3)})
    redraw(module)
    return module.eval()


def test_a_tied_head_has_the_embedder_s_vectors_and_a_bias_of_its_own():
    module, embedder, latents = decoder_of(LinearDecoder(tied=True)), torch.nn.Embedding(3, 8), scene(24)
    module.tie({"a": embedder})
    assert [name for name, _ in module.named_parameters()] == ["heads.raw.bias"]
    found = module(latents, *ask([[5], [7]]))["raw"]
    row = latents.values[0, latents.at[0].tolist().index(5)]
    assert_close(found[0, 0], embedder.weight @ row + module.heads["raw"].bias)
    found.sum().backward()
    assert embedder.weight.grad.any()


@pytest.mark.parametrize("embedder", [torch.nn.Linear(3, 8), torch.nn.Embedding(4, 8)])
def test_what_has_no_vector_for_each_value_cannot_be_tied(embedder):
    with pytest.raises(OptionError, match=r"a vector of the embedder for each of its 3 values, and 'a' has"):
        decoder_of(LinearDecoder(tied=True)).tie({"a": embedder})


def test_tied_weights_need_a_latent_for_every_token():
    with pytest.raises(OptionError, match="Tied weights need one latent per token"):
        LinearDecoder(tied=True).build({"a": Map()}, COARSE, {"raw": ("a", 3)})
