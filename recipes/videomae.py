"""VideoMAE: masked autoencoding of videos with tubes.

Paper    Tong et al. 2022, VideoMAE: Masked Autoencoders are Data-Efficient Learners, arXiv:2203.12602
Run      accelerate launch recipes/videomae.py --data path/to/videos
Demo     accelerate launch recipes/videomae.py
Cost     not measured yet (paper: 64 GPUs; hours not given)
Result   not reproduced yet (paper: Kinetics-400, ViT-B, 1600 epochs, 81.5 % top-1 after fine-tuning; default here: 800)
Differs  bf16 in place of fp16, so that no loss scaling is needed; clip starts and crops come from our own
         counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.tube import TubeMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.video import Video

VIDEOMAE = Recipe(
    name="videomae",
    modalities={
        "video": Video(frames=16, stride=4, size=224, patch=16, tubelet=2, crop="multi_scale")
    },  # section 4, appendix
    masking={"video": TubeMasking()},  # section 3.3
    budget=Ratio(0.9, rounding="hidden_down"),  # figure 3; int(0.9 * 196) = 176 places of a frame
    corruption={"video": Drop()},
    encoder=JointEncoder(width=768, depth=12, heads=12, bias="qv"),
    decoders={"video": SelfAttentionDecoder(width=384, depth=4, heads=6, bias="qv", embed_bias=False)},  # table 2a
    tasks={
        "video": Task(
            modality="video",
            decoder="video",
            target=Pixels(normalise="channel", eps_inside=False, units="raw"),  # official code
        )
    },
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1.5e-4, per=256, betas=(0.9, 0.95), weight_decay=0.05),  # appendix, pre-training setting
    schedule=WarmupCosine(warmup=40 / 800, min_lr=1e-5 / 1.5e-4),
    epochs=800.0,
    batch=2048,
    size="base",
)

# Encoder and decoder of the published checkpoints (official model code); tiny is ours, for a CPU. The published batch
# differs by size and data: S on Kinetics-400 and H 1024, L 512, S on SSv2 and B 2048.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.video.width": decoder_width,
        "decoders.video.depth": decoder_depth,
        "decoders.video.heads": decoder_heads,
        "batch": batch,
    }
    for name, width, depth, heads, decoder_width, decoder_depth, decoder_heads, batch in (
        ("tiny", 96, 3, 3, 64, 2, 2, 2048),
        ("small", 384, 12, 6, 192, 4, 3, 1024),
        ("base", 768, 12, 12, 384, 4, 6, 2048),
        ("large", 1024, 24, 16, 512, 12, 8, 512),
        ("huge", 1280, 32, 16, 640, 12, 8, 1024),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Pixels are predicted raw, because normalising
# 8 x 8 patches of a small noisy clip leaves mostly noise, from which little is learnt in two minutes (docs/results.md).
DEMO = {
    "size": "tiny",
    "modalities.video.frames": 8,
    "modalities.video.stride": 4,
    "modalities.video.size": 32,
    "modalities.video.patch": 8,
    "budget.ratio": 0.75,
    "tasks.video.target.normalise": "none",
    "optimiser.base_lr": 4e-3,
    "optimiser.per": 0,
    "steps": 300,
    "batch": 64,
    "repeats": 8,
    "precision": "fp32",
    "checkpoint_every": 150,
}

if __name__ == "__main__":
    run.main(VIDEOMAE, sizes=SIZES, demo=DEMO)
