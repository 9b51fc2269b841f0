import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.testing import assert_close

from mmim.decoders import local_attention
from mmim.decoders.decoder import Query
from mmim.decoders.local_attention import LocalAttentionDecoder, LocalAttentionDecoderModule, LocalBlock, log_offsets
from mmim.encoders.joint import JointEncoder
from mmim.encoders.swin import SwinEncoder
from mmim.errors import OptionError
from mmim.layers.window import window_mask
from mmim.records import Latents
from tests.toy import Toy, tokens
from tests.videomae import redraw

REFERENCE = Path(__file__).parents[2] / "reference" / "audiomae_local_decoder.safetensors"
ENCODER = JointEncoder(width=8, heads=2)
TASKS = {"raw": ("sound", 3), "fine": ("sound", 5)}


class Table(nn.Module):
    """Positions from a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, _: object) -> Tensor:
        return self.table


@dataclass(frozen=True, kw_only=True)
class Sound(Toy):
    """Tokens on a grid of (time, frequency), with their positions given."""

    size: tuple[int, ...] = (6, 4)
    table: Tensor | None = None

    def grid(self) -> tuple[int, ...] | None:
        return self.size

    def position(self, width: int) -> nn.Module:
        return super().position(width) if self.table is None else Table(self.table)


# ---- the official decoder


def official_to_ours(state: dict[str, Tensor], decoder: str = "audio", task: str = "audio") -> dict[str, Tensor]:
    """The decoder of Audio-MAE (facebookresearch/AudioMAE, decoder_mode 1); positions are fixed and left out."""
    prefixes = {
        "decoder_embed.": f"decoders.{decoder}.embed.",
        "decoder_blocks.": f"decoders.{decoder}.blocks.",
        "decoder_norm.": f"decoders.{decoder}.norm.",
        "decoder_pred.": f"decoders.{decoder}.heads.{task}.",
        "mask_token": f"decoders.{decoder}.mask_token",
    }
    return {
        new + name.removeprefix(old): tensor
        for name, tensor in state.items()
        for old, new in prefixes.items()
        if name.startswith(old)
    }


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with safe_open(REFERENCE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def official_decoder(
    reference: dict[str, Tensor], dtype: torch.dtype = torch.float64, **changes
) -> LocalAttentionDecoderModule:
    with safe_open(REFERENCE, "pt") as file:
        config = json.loads(file.metadata()["constructor"])
    decoder = LocalAttentionDecoder(
        width=config["decoder_embed_dim"],
        depth=config["decoder_depth"],
        heads=config["decoder_num_heads"],
        mlp_ratio=config["mlp_ratio"],
        **changes,
    )
    sound = Sound(size=(64, 8), table=reference["state/decoder_pos_embed"][:, 1:])
    module = decoder.build({"sound": sound}, JointEncoder(width=32, heads=4), {"sound": ("sound", 64)})
    state = {name.removeprefix("state/"): tensor for name, tensor in reference.items() if name.startswith("state/")}
    ours = official_to_ours(state, "d", "sound")
    module.load_state_dict({name.removeprefix("decoders.d."): tensor for name, tensor in ours.items()}, strict=True)
    return module.to(dtype).eval()


def predicted(module: LocalAttentionDecoderModule, reference: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The prediction at some places from the official latents without their class token."""
    values = reference["out/latent"][:, 1:].to(module.mask_token.dtype)
    made = tokens(1, (64, 8))
    latents = Latents(values, reference["mask/ids_keep"], (("sound", 512),))
    with torch.no_grad():
        return module(latents, {"sound": made}, {"sound": Query(made, ids)})["sound"]


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def everywhere() -> Tensor:
    return torch.arange(512)[None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 2e-5)])
def test_agrees_with_the_official_decoder(reference, dtype, tolerance):
    found = predicted(official_decoder(reference, dtype), reference, everywhere())
    assert error(found, reference["out/pred"]) < tolerance


def test_every_block_agrees_with_the_official_ones(reference):
    module, seen = official_decoder(reference), {}
    module.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.update({"in": inputs[0]}))
    module.blocks[0].register_forward_hook(lambda block, inputs, out: seen.update({"0": out}))
    module.blocks[-1].register_forward_hook(lambda block, inputs, out: seen.update({"1": out}))
    predicted(module, reference, everywhere())
    for name, found in seen.items():
        assert error(found.flatten(1, 2), reference[f"trace/decoder.{name}"]) < 2e-6


def test_the_hidden_places_alone_can_be_asked_for(reference):
    hidden = reference["mask/mask"][0].nonzero().T
    found = predicted(official_decoder(reference), reference, hidden)
    assert error(found, reference["out/pred"][:, hidden[0]]) < 2e-6


def test_offsets_are_spaced_as_the_official_ones(reference):
    found = log_offsets((4, 4), torch.zeros(1, dtype=torch.float64))
    assert_close(found.flatten(0, 1).float(), reference["fixed/decoder_blocks.0.attn.relative_coordinates_log"])


def test_the_seam_is_closed_where_the_official_one_is(reference):
    allowed = window_mask((64, 8), (4, 4), (2, 0), None, torch.device("cpu"))
    assert torch.equal(allowed[0], reference["fixed/decoder_blocks.1.attn_mask"] == 0)


@pytest.mark.parametrize("change", [{"shift": (0, 0)}, {"shift": (2, 2)}, {"shift": (1, 0)}, {"eps": 1e-5}])
def test_another_option_gives_other_numbers_than_the_official_ones(reference, change):
    found = predicted(official_decoder(reference, **change), reference, everywhere())
    assert error(found, reference["out/pred"]) > 1e-5


def test_norms_before_the_residuals_give_other_numbers(reference, monkeypatch):
    def pre_norm(self, x, shift, mask):
        windows = self.attn(local_attention.to_windows(local_attention.rolled(self.norm1(x), shift), (4, 4)), mask)
        back = local_attention.from_windows(windows, (x.shape[1], x.shape[2]), (4, 4))
        x = x + local_attention.rolled(back, (-shift[0], -shift[1]))
        return x + self.mlp(self.norm2(x))

    monkeypatch.setattr(LocalBlock, "forward", pre_norm)
    assert error(predicted(official_decoder(reference), reference, everywhere()), reference["out/pred"]) > 1e-2


def test_an_open_seam_gives_other_numbers(reference, monkeypatch):
    monkeypatch.setattr(local_attention, "window_mask", lambda *_: None)
    assert error(predicted(official_decoder(reference), reference, everywhere()), reference["out/pred"]) > 1e-3


def test_without_temperatures_the_numbers_are_others(reference):
    module = official_decoder(reference)
    for block in module.blocks:
        nn.init.ones_(block.attn.tau)
    assert error(predicted(module, reference, everywhere()), reference["out/pred"]) > 1e-3


def test_temperatures_have_a_floor(reference):
    def at(tau: float) -> Tensor:
        module = official_decoder(reference)
        for block in module.blocks:
            nn.init.constant_(block.attn.tau, tau)
        return predicted(module, reference, everywhere())

    floor = at(0.01)
    assert torch.equal(at(0.001), floor)
    assert torch.equal(at(-1.0), floor)
    assert error(at(0.02), floor) > 1e-3


# ---- on a small map


def build(size: tuple[int, int] = (6, 4), **options) -> LocalAttentionDecoderModule:
    decoder = LocalAttentionDecoder(width=16, depth=4, heads=2, bias_width=8, **options)
    module = decoder.build({"sound": Sound(size=size)}, ENCODER, TASKS)
    redraw(module)
    return module.double().eval()


def some(n: int, k: int, b: int = 2, seed: int = 0) -> tuple[Latents, Tensor]:
    """Latents at k of n places, and the other places."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(b)])
    values = torch.randn(b, k, 8, dtype=torch.float64, generator=generator)
    return Latents(values, order[:, :k], (("sound", n),)), order[:, k:]


def decode(module, latents: Latents, ids: Tensor, grid=(6, 4), valid=None) -> Tensor:
    made = tokens(len(ids), grid)
    query = {"sound": Query(made, ids, valid)}
    return module(latents, {name: made for name, _ in latents.layout}, query)["fine"]


def same(found, expected):
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_every_task_gets_its_numbers_at_the_places_asked_for():
    latents, hidden = some(24, 9)
    made = tokens(2, (6, 4))
    found = build()(latents, {"sound": made}, {"sound": Query(made, hidden)})
    assert {task: tuple(pred.shape) for task, pred in found.items()} == {"raw": (2, 15, 3), "fine": (2, 15, 5)}


def test_the_order_of_latents_and_of_queries_does_not_matter():
    module, (latents, hidden) = build(), some(24, 9)
    order = torch.randperm(9)
    turned = replace(latents, values=latents.values[:, order], at=latents.at[:, order])
    same(decode(module, turned, hidden.flip(1)).flip(1), decode(module, latents, hidden))


def test_padded_latents_and_queries_change_nothing():
    module, (latents, hidden) = build(), some(24, 9)
    asked = hidden[:, :12]  # three places are unknown
    padded = Latents(
        torch.cat([latents.values, 1e3 * torch.ones(2, 2, 8)], dim=1),
        torch.cat([latents.at, hidden[:, :2]], dim=1),
        latents.layout,
        (torch.arange(11) < 9).expand(2, 11),
    )
    more = torch.cat([asked, hidden[:, 12:]], dim=1)
    found = decode(module, padded, more, valid=(torch.arange(15) < 12).expand(2, 15))
    same(found[:, :12], decode(module, latents, asked))


def test_unknown_places_are_not_attended_to():
    module, (latents, hidden) = build(), some(24, 9)
    few, all_hidden = decode(module, latents, hidden[:, :12]), decode(module, latents, hidden)[:, :12]
    assert not torch.allclose(few, all_hidden)
    nn.init.constant_(module.mask_token, 0.7)
    module.register_buffer("poison", torch.zeros(24, 16, dtype=torch.float64))
    module.positions["sound"] = Table(torch.randn(1, 24, 16, dtype=torch.float64).repeat(2, 1, 1))
    expected = decode(module, latents, hidden[:, :12])
    for row, places in enumerate(hidden[:, 12:]):
        module.positions["sound"].table[row, places] = 1e3
    same(decode(module, latents, hidden[:, :12]), expected)


@pytest.mark.parametrize("grid", [(7, 4), (5, 3), (3, 2), (9, 6)])
def test_a_map_that_no_windows_fill_is_as_its_tokens_alone(grid):
    """The padding of the last windows can't be told from a larger map whose further places are unknown."""
    n, larger = grid[0] * grid[1], (-(-grid[0] // 4) * 4, -(-grid[1] // 4) * 4)
    module, (latents, hidden) = build(grid), some(n, n // 2)
    module.positions["sound"] = Table(torch.zeros(1, 1, 16, dtype=torch.float64))
    found = decode(module, latents, hidden, grid)
    if grid[0] <= 4:  # one window, which is not shifted however large the map
        module.shift = (0, 0)

    def there(ids: Tensor) -> Tensor:
        return ids // grid[1] * larger[1] + ids % grid[1]

    moved = Latents(latents.values, there(latents.at), (("sound", larger[0] * larger[1]),))
    same(decode(module, moved, there(hidden), larger), found)


def test_another_duration_than_in_training_works():
    latents, hidden = some(44, 20)
    assert decode(build((6, 4)), latents, hidden, (11, 4)).isfinite().all()


def test_shifted_windows_let_neighbours_across_a_border_meet():
    """A place of the first window hears of one two further on, in the second, and of none beyond; nothing wraps."""
    module = LocalAttentionDecoder(width=16, depth=2, heads=2).build({"sound": Sound(size=(16, 4))}, ENCODER, TASKS)
    redraw(module)
    module, (latents, _) = module.double().eval(), some(64, 64, b=1)
    latents = replace(latents, at=torch.arange(64)[None])
    first = torch.tensor([[12]])  # row 3: its shifted window is rows 2 to 5, those of rows 4 and 5 reach to row 7

    def moved_by(row: int) -> bool:
        values = latents.values.clone()
        values[:, 4 * row : 4 * row + 4] += 1
        other = decode(module, replace(latents, values=values), first, (16, 4))
        return not torch.equal(other, decode(module, latents, first, (16, 4)))

    assert [moved_by(row) for row in range(16)] == [row < 8 for row in range(16)]


def test_latents_of_other_modalities_and_global_tokens_are_left_out():
    module, (latents, hidden) = build(), some(24, 9)
    both = Latents(
        torch.cat([1e3 * torch.ones(2, 3, 8), latents.values], dim=1).double(),
        torch.cat([torch.tensor([[0, 2, 4]] * 2), latents.at + 5], dim=1),
        (("sight", 5), ("sound", 24)),
        globals=torch.ones(2, 1, 8, dtype=torch.float64),
    )
    same(decode(module, both, hidden), decode(module, latents, hidden))


def test_the_bias_is_dropped_in_training_only():
    module, (latents, hidden) = build(), some(24, 9)
    assert torch.equal(decode(module, latents, hidden), decode(module, latents, hidden))
    module.train()
    assert not torch.allclose(decode(module, latents, hidden), decode(module, latents, hidden))


def test_runs_in_bfloat16_and_every_parameter_gets_a_gradient():
    module, (latents, hidden) = build((5, 3)).float(), some(15, 6)
    module.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = decode(module, replace(latents, values=latents.values.float()), hidden, (5, 3))
    found.float().square().sum().backward()
    bare = [name for name, parameter in module.heads["fine"].named_parameters() if parameter.grad is None]
    bare += [
        name for name, p in module.named_parameters() if "heads" not in name and (p.grad is None or not p.grad.any())
    ]
    assert bare == []


IN_ONE_GRAPH = """
import torch
from tests.mmim.decoders.test_local_attention import build, decode, some

for size, asked in (((8, 4), 20), ((6, 4), 9)):  # everything known; windows to pad and unknown places
    n = size[0] * size[1]
    module, (latents, hidden) = build(size), some(n, n - 20)
    ids = hidden[:, :asked]
    compiled = torch.compile(lambda: decode(module, latents, ids, size), fullgraph=True, backend="aot_eager")
    found, expected = compiled(), decode(module, latents, ids, size)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
print("one graph")
"""


@pytest.mark.slow
def test_traces_into_one_graph():
    """In a process of its own: with shape checks on, there is more to trace than torch knows."""
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", IN_ONE_GRAPH], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "one graph", run.stderr


@pytest.mark.parametrize(
    ("tasks", "modality", "encoder", "message"),
    [
        ({"a": ("sound", 3), "b": ("sight", 3)}, Sound(), ENCODER, "one modality, and its tasks have sight, sound"),
        (TASKS, Sound(size=(6,)), ENCODER, r"2-D grid, and that of 'sound' is \(6,\): use the self_attention"),
        (TASKS, Sound(), SwinEncoder(width=8, depths=(1, 1), heads=(1, 1)), "a stride of 2: use the linear decoder"),
    ],
)
def test_what_it_cannot_decode_is_refused(tasks, modality, encoder, message):
    with pytest.raises(OptionError, match=message):
        LocalAttentionDecoder().build({"sound": modality, "sight": Sound()}, encoder, tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "decoder.heads is 5; it must be a divisor of the width, 512"),
        ({"window": (4, 0)}, "decoder.window"),
        ({"shift": (4, 0)}, "decoder.shift is .4, 0.; it must be at least 0 and below the window"),
        ({"bias_dropout": 1.0}, "decoder.bias_dropout"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        LocalAttentionDecoder(**options)


def test_a_map_has_no_room_for_a_place_that_is_asked_for_and_seen():
    made, ids = tokens(1, (8, 4)), torch.arange(32)[None]
    module = LocalAttentionDecoder(width=16, depth=1, heads=2).build({"sound": Sound(size=(8, 4))}, ENCODER, TASKS)
    latents = Latents(torch.randn(1, 16, ENCODER.width), ids[:, :16], (("sound", 32),))
    with pytest.raises(OptionError, match="one token at each place of a map"):
        module(latents, {"sound": made}, {"sound": Query(made, ids[:, 8:24], twice=True)})
