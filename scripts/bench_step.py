"""Our VideoMAE training step against transformers', in one process, alternating, at equal sizes and precision.

    python scripts/bench_step.py --threads 1 --rounds 7

A step is forward and backward from a normalised clip to gradients (ours from uint8, which it normalises itself); the
optimiser is left out, being the same. Prints the median of each, and of their ratio pair by pair: below 1 we are
faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from mmim.model import MaskedModel
from mmim.options import apply
from mmim.records import Batch
from recipes.videomae import SIZES, VIDEOMAE


def ours(size: str, frames: int, image: int, batch: int, device: str) -> Callable[[], None]:
    """One step of our model."""
    recipe = apply(VIDEOMAE, {**SIZES[size], "modalities.video.frames": frames, "modalities.video.size": image})
    model = MaskedModel(recipe).to(device)
    clips = torch.randint(0, 256, (batch, 3, frames, image, image), dtype=torch.uint8)
    ids = torch.arange(batch)
    present = {"video": torch.ones(batch, dtype=torch.bool)}
    data = Batch({"main": {"video": clips}}, present, ids, ids, torch.tensor(0)).to(device)

    def step() -> None:
        model.zero_grad()
        term = model(data)["reconstruction/video"]
        (term.total / term.count).backward()

    return step


def theirs(size: str, frames: int, image: int, batch: int, device: str) -> Callable[[], None]:
    """One step of transformers' model with its fastest attention."""
    values = SIZES[size]
    config = VideoMAEConfig(
        image_size=image,
        num_frames=frames,
        hidden_size=values["encoder.width"],
        num_hidden_layers=values["encoder.depth"],
        num_attention_heads=values["encoder.heads"],
        intermediate_size=4 * values["encoder.width"],
        decoder_hidden_size=values["decoders.video.width"],
        decoder_num_hidden_layers=values["decoders.video.depth"],
        decoder_num_attention_heads=values["decoders.video.heads"],
        decoder_intermediate_size=4 * values["decoders.video.width"],
        use_mean_pooling=False,
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    model = VideoMAEForPreTraining(config).to(device)
    places = (image // config.patch_size) ** 2
    clips = torch.randn(batch, frames, 3, image, image, device=device)
    hidden = torch.stack([torch.randperm(places) < int(0.9 * places) for _ in range(batch)])
    mask = hidden.repeat(1, frames // 2).to(device)

    def step() -> None:
        model.zero_grad()
        model(clips, bool_masked_pos=mask).loss.backward()

    return step


def timed(step: Callable[[], None], device: str, precision: str) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=SIZES, help="published width, depth and heads")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--image", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes = (args.size, args.frames, args.image, args.batch, args.device)
    steps = {"mmim": ours(*sizes), "transformers": theirs(*sizes)}
    for step in steps.values():
        timed(step, args.device, args.precision)
    rounds = [
        {name: timed(step, args.device, args.precision) for name, step in steps.items()} for _ in range(args.rounds)
    ]
    for name in steps:
        print(f"{name:13s} {1000 * statistics.median(r[name] for r in rounds):8.1f} ms")
    ratios = [r["mmim"] / r["transformers"] for r in rounds]
    span = f"from {min(ratios):.3f} to {max(ratios):.3f}, {args.rounds} rounds"
    print(f"ratio         {statistics.median(ratios):8.3f}    ({span})")


if __name__ == "__main__":
    main()
