import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.testing import assert_close

from mmim.corruption.mask_token import MaskToken
from mmim.decoders.decoder import Query
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.encoder import Trunk, Visible
from mmim.encoders.swin import SwinEncoder, SwinEncoderModule
from mmim.errors import OptionError
from mmim.layers.patches import PatchEmbed, from_patches, grid_coords, to_patches
from mmim.layers.positions import NoPosition
from mmim.records import Latents, Split, Tokens
from tests.mmim.decoders.test_linear import official_head
from tests.toy import Toy, branch, tokens
from tests.videomae import redraw

REFERENCE = Path(__file__).parents[2] / "reference" / "simmim_swin.safetensors"
SMALL = SwinEncoder(width=4, depths=(2, 2), heads=(1, 2), window=2)


@dataclass(frozen=True, kw_only=True)
class Picture(Toy):
    """Patches on a grid, without positions."""

    size: tuple[int, ...] = (8, 4)
    patch: int = 4

    @property
    def piece(self) -> tuple[int, ...]:
        return (3, self.patch, self.patch)

    def grid(self) -> tuple[int, ...] | None:
        return self.size

    def tokenize(self, raw: Tensor) -> Tokens:
        grid = (raw.shape[2] // self.patch, raw.shape[3] // self.patch)
        return Tokens(to_patches(raw, (self.patch, self.patch)), grid_coords(grid), grid=grid)

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, norm_eps=1e-5)

    def position(self, width: int) -> nn.Module:
        return NoPosition(width)


# ---- the official encoder and head


def official_to_ours(state: dict[str, Tensor], modality: str = "image") -> dict[str, Tensor]:
    """The encoder of SimMIM's Swin (microsoft/SimMIM): as timm 1 has it, a stage begins with the merging of patches.

    Masks and indices are computed, and left out; the tables have the same order of rows.
    """
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith("encoder.") or name.endswith(("attn_mask", "relative_position_index")):
            continue
        name = re.sub(r"^encoder\.patch_embed\.", f"trunk.embedders.{modality}.", name)
        name = re.sub(r"^encoder\.mask_token$", f"trunk.corruption.{modality}.mask_token", name)
        name = re.sub(
            r"^encoder\.layers\.(\d+)\.downsample", lambda m: f"encoder.layers.{int(m[1]) + 1}.downsample", name
        )
        renamed[re.sub(r"^encoder\.", "trunk.encoder.", name)] = tensor
    return renamed


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with safe_open(REFERENCE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def official_state(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("state/"): tensor for name, tensor in reference.items() if name.startswith("state/")}


def official_trunk(reference: dict[str, Tensor], dtype: torch.dtype = torch.float64, **changes) -> Trunk:
    with safe_open(REFERENCE, "pt") as file:
        config = json.loads(file.metadata()["constructor"])["encoder"]
    options = {
        "width": config["embed_dim"],
        "depths": tuple(config["depths"]),
        "heads": tuple(config["num_heads"]),
        "window": config["window_size"],
        "mlp_ratio": config["mlp_ratio"],
    }
    side = config["img_size"] // config["patch_size"]
    picture = Picture(size=(side, side), patch=config["patch_size"])
    trunk = Trunk({"image": picture}, SwinEncoder(**{**options, **changes}), {"image": MaskToken()})
    weights = {name.removeprefix("trunk."): t for name, t in official_to_ours(official_state(reference)).items()}
    trunk.load_state_dict(weights, strict=True)
    return trunk.to(dtype).eval()


def encoded(trunk: Trunk, reference: dict[str, Tensor]) -> Latents:
    """The official picture through our trunk, masked as the official one."""
    made = Picture().tokenize(reference["input/image"].to(trunk.encoder.norm.weight.dtype))
    order = reference["mask/mask"].flatten(1).argsort(dim=1, stable=True)
    kept = int((reference["mask/mask"][0] == 0).sum())
    present = {"image": torch.ones(len(order), dtype=torch.bool)}
    with torch.no_grad():
        part = branch(trunk, "image", made, Split(order[:, :kept], order[:, kept:]))
        return trunk.encoder.joint({"image": part}, (("image", made.count),), present)


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def official_latent(reference: dict[str, Tensor]) -> Tensor:
    return reference["out/latent"].flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 2e-5)])
def test_agrees_with_the_official_encoder_and_head(reference, dtype, tolerance):
    trunk = official_trunk(reference, dtype)
    latents = encoded(trunk, reference)
    assert error(latents.values, official_latent(reference)) < tolerance

    encoder = SwinEncoder(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4))
    head = LinearDecoder().build({"image": Picture(size=(16, 16))}, encoder, {"image": ("image", 48)})
    weights = official_head(official_state(reference), patch=4, stride=8)
    head.load_state_dict({name.removeprefix("decoders.image."): tensor for name, tensor in weights.items()})
    made = tokens(2, (16, 16))
    query = Query(made, torch.arange(256).expand(2, -1))
    with torch.no_grad():
        found = head.to(dtype)(latents, {"image": made}, {"image": query})["image"]
    picture = from_patches(found.unflatten(2, (4, 4, 3)).movedim(-1, 2), (16, 16))
    assert error(picture, reference["out/pred"]) < tolerance


def test_every_block_agrees_with_the_official_ones(reference):
    trunk, seen = official_trunk(reference), {}
    for number, stage in enumerate(trunk.encoder.layers):
        stage.blocks[0].register_forward_pre_hook(
            lambda block, inputs, number=number: seen.update({f"stage{number}.in": inputs[0]})
        )
        for place, block in enumerate(stage.blocks):
            block.register_forward_hook(
                lambda block, inputs, out, name=f"stage{number}.{place}": seen.update({name: out})
            )
    encoded(trunk, reference)
    assert len(seen) == 12
    for name, found in seen.items():
        assert error(found.flatten(1, 2), reference[f"trace/{name}"]) < 2e-6


def test_another_eps_gives_other_numbers_than_the_official_ones(reference):
    found = encoded(official_trunk(reference, eps=1e-6), reference).values
    assert error(found, official_latent(reference)) > 1e-5


def test_windows_that_are_not_shifted_give_other_numbers(reference):
    trunk = official_trunk(reference)
    for block in (block for stage in trunk.encoder.layers for block in stage.blocks):
        block.shift_size = (0, 0)
    assert error(encoded(trunk, reference).values, official_latent(reference)) > 1e-3


def test_the_mask_token_stands_before_the_encoder(reference):
    trunk = official_trunk(reference)
    nn.init.zeros_(trunk.corruption["image"].mask_token)
    assert error(encoded(trunk, reference).values, official_latent(reference)) > 1e-3


def test_names_are_timm_s():
    import timm

    module = SwinEncoder(width=24, depths=(1, 1, 1), heads=(1, 2, 3), window=2).build({"a": Picture(size=(8, 8))})
    theirs = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=24, depths=(1, 1, 1), num_heads=(1, 2, 3), window_size=2, num_classes=0
    )
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items() if "patch_embed" not in name}
    assert {name: tensor.shape for name, tensor in module.state_dict().items()} == shapes


# ---- its own contract


@pytest.fixture
def module() -> SwinEncoderModule:
    built = SMALL.build({"a": Picture()})
    redraw(built)
    return built.double().eval()


def visible(grid: tuple[int, int] = (8, 4), b: int = 2, dtype: torch.dtype = torch.float64) -> Visible:
    n = grid[0] * grid[1]
    x = torch.randn(b, n, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return Visible(x, torch.zeros_like(x), torch.arange(n).expand(b, -1), tokens(b, grid))


def joint(module: SwinEncoderModule, part: Visible) -> Latents:
    present = {"a": torch.ones(len(part.ids), dtype=torch.bool)}
    return module.joint({"a": module.branch("a", part)}, (("a", part.tokens.count),), present)


def test_latents_stand_on_the_coarse_grid(module):
    latents = joint(module, visible())
    assert (SMALL.stride, SMALL.latent_width) == (2, 8)
    assert latents.values.shape == (2, 8, 8)
    assert latents.layout == (("a", 8),)
    assert torch.equal(latents.at, torch.arange(8).expand(2, -1))
    assert latents.valid is None


def test_the_order_in_which_tokens_come_does_not_matter(module):
    part, order = visible(), torch.stack([torch.randperm(32), torch.randperm(32)])
    rows = order[..., None].expand(-1, -1, 4)
    mixed = replace(part, values=part.values.gather(1, rows), ids=part.ids.gather(1, order))
    assert_close(joint(module, mixed).values, joint(module, part).values, rtol=0, atol=0)


def test_a_branch_adds_the_positions(module):
    part = visible()
    found = module.branch("a", replace(part, positions=2 * part.values))
    assert_close(found.values, 3 * part.values)


@pytest.mark.parametrize("grid", [(8, 8), (12, 4), (2, 2), (6, 10)])
def test_another_grid_than_in_training_leaves_nothing_behind(module, grid):
    before = joint(module, visible()).values
    names = set(module.state_dict())
    assert joint(module, visible(grid)).values.shape == (2, grid[0] * grid[1] // 4, 8)
    assert set(module.state_dict()) == names
    assert torch.equal(joint(module, visible()).values, before)


def test_a_token_reaches_as_far_as_its_shifted_windows(module):
    """Two blocks per stage: 2 x 2 windows, then shifted ones; far latents of a large map know nothing of a token."""
    part = visible((32, 32))
    values = part.values.clone()
    values[:, 0] += 1
    changed = (joint(module, replace(part, values=values)).values != joint(module, part).values).any(-1)[0]
    rows = changed.unflatten(0, (16, 16)).nonzero()
    assert changed[0]
    assert rows.max() < 8


def test_windows_meet_only_through_the_shift():
    encoder = replace(SMALL, depths=(1, 1))
    built = encoder.build({"a": Picture(size=(8, 8))})
    redraw(built)
    part = visible((8, 8))
    values = part.values.clone()
    values[:, 0] += 1
    built = built.double().eval()
    changed = (joint(built, replace(part, values=values)).values != joint(built, part).values).any(-1)[0]
    assert changed.unflatten(0, (4, 4)).nonzero().max() < 2


def test_a_fresh_module_starts_as_swin_does():
    torch.manual_seed(0)
    module = SwinEncoder(width=32, depths=(2, 2), heads=(1, 2)).build({"a": Picture(size=(12, 12))})
    fc1 = module.layers[0].blocks[0].mlp.fc1
    assert 0.018 < fc1.weight.std() < 0.022
    assert not fc1.bias.any()


def test_drop_path_grows_from_nothing():
    module = replace(SMALL, drop_path=0.3).build({"a": Picture()})
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in module.layers for block in stage.blocks]
    assert_close(rates, [0.0, 0.1, 0.2, 0.3])


def test_eps_reaches_every_norm():
    module = replace(SMALL, eps=1e-3).build({"a": Picture()})
    assert {norm.eps for norm in module.modules() if isinstance(norm, nn.LayerNorm)} == {1e-3}


def test_runs_in_bfloat16_and_every_parameter_gets_a_gradient(module):
    module, part = module.float().train(), visible()
    with torch.autocast("cpu", torch.bfloat16):
        out = joint(module, replace(part, values=part.values.float(), positions=part.positions.float()))
    out.values.float().square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


IN_ONE_GRAPH = """
import torch
from mmim.decoders.decoder import Query
from mmim.decoders.linear import LinearDecoder
from tests.mmim.encoders.test_swin import SMALL, Picture, joint, visible

torch.manual_seed(0)
encoder = SMALL.build({"a": Picture()})
decoder = LinearDecoder().build({"a": Picture()}, SMALL, {"raw": ("a", 3)})

def run(part, ids):
    return decoder(joint(encoder, part), {"a": part.tokens}, {"a": Query(part.tokens, ids)})["raw"]

compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
part, ids = visible(dtype=torch.float32), torch.tensor([[3, 30], [8, 0]])
found, expected = compiled(part, ids), run(part, ids)
torch.testing.assert_close(found, expected)
found.sum().backward()
print("one graph")
"""


@pytest.mark.slow
def test_encoder_and_head_trace_into_one_graph():
    """In a process of its own: with shape checks on, there is more to trace than torch knows."""
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", IN_ONE_GRAPH], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "one graph", run.stderr


@pytest.mark.parametrize("hidden", ["dropped", "padded"])
def test_a_map_with_holes_is_refused(module, hidden):
    part = visible()
    if hidden == "dropped":
        part = replace(part, values=part.values[:, :9], positions=part.positions[:, :9], ids=part.ids[:, :9])
    else:
        part = replace(part, valid=part.ids < 30)
    with pytest.raises(OptionError, match=r"needs whole maps, and of 'a' .* use the corruption mask_token"):
        module.branch("a", part)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"a": Picture(), "b": Picture()}, "encodes one modality, and there are a, b: use the joint encoder"),
        ({"a": Picture(size=(4, 8, 8))}, r"needs a 2-D grid .* that of 'a' is \(4, 8, 8\)"),
        ({"a": Picture(size=(8, 5))}, r"halve to 2 x 2 tokens per latent, and that of 'a' is \(8, 5\)"),
    ],
)
def test_what_it_cannot_encode_is_refused(modalities, message):
    with pytest.raises(OptionError, match=message):
        SMALL.build(modalities)


def test_a_grid_that_cannot_be_halved_is_refused_at_inference_too(module):
    with pytest.raises(OptionError, match=r"that of 'a' is \(5, 4\)"):
        joint(module, visible((5, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "encoder.depths"),
        ({"depths": (2, 0, 2, 2)}, "encoder.depths"),
        ({"heads": (4, 8)}, "encoder.heads is .4, 8.; it must be 4 numbers"),
        ({"heads": (4, 8, 16, 33)}, "encoder.heads.3 is 33; it must be a divisor of 1024"),
        ({"window": 0}, "encoder.window"),
        ({"drop_path": 1.0}, "encoder.drop_path"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        SwinEncoder(**options)
