"""MaskFeat on videos: predicting histograms of oriented gradients of hidden cuboids.

Paper    Wei et al. 2022, Masked Feature Prediction for Self-Supervised Visual Pre-Training, arXiv:2112.09133
Run      accelerate launch recipes/maskfeat_video.py --data path/to/videos
Demo     accelerate launch recipes/maskfeat_video.py
Cost     not measured yet (paper: hours not given)
Result   not the paper's model (paper: Kinetics-400, MViT-S, 300 epochs, 82.2 % top-1 after fine-tuning)
Differs  a ViT with tubelets of 2 x 16 x 16 and VideoMAE's sinusoid in place of MViT-S, which pools overlapping patches
         to the same 8 x 14 x 14 tokens and has relative positions; bf16 in place of fp16; a batch of 512, where the
         official configuration says 32 for each machine and not how many machines; the warm-up starts at zero; how
         long a cuboid lasts is our choice; clips, crops and cuboids come from our own counter-based draws
"""

from mmim import run
from mmim.corruption.mask_token import MaskToken
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.cuboid import CuboidMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.hog import HOG
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.video import Video

MASKFEAT_VIDEO = Recipe(
    name="maskfeat-video",
    modalities={
        "video": Video(
            frames=16,
            stride=4,
            size=224,
            patch=16,
            tubelet=2,
            crop="random_resized",
            scale=(0.5, 1.0),
            flip=True,
        )
    },  # section 4.2, official configuration
    masking={"video": CuboidMasking(cell=2, smallest=9, largest=49, aspect=0.3)},  # official code: 8 x 7 x 7 cells
    budget=Ratio(0.4, rounding="nearest"),  # section 4.2; round(0.4 * 392) = 157 cells
    corruption={"video": MaskToken()},  # section 3
    encoder=JointEncoder(width=768, depth=12, heads=12, global_tokens=1),
    decoders={"video": LinearDecoder()},  # section 3
    tasks={"video": Task(modality="video", decoder="video", target=HOG(bins=9, cell=8))},  # section 3.1
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-4, per=32, betas=(0.9, 0.999), weight_decay=0.05, no_decay=()),
    schedule=WarmupCosine(warmup=10 / 300, min_lr=1e-6 / 1e-4),
    clip_grad=0.02,
    epochs=300.0,
    batch=512,
    size="base",
)

# All are ours: the paper trains MViT-S and MViT-L.
SIZES = {
    name: {"encoder.width": width, "encoder.depth": depth, "encoder.heads": heads}
    for name, width, depth, heads in (
        ("tiny", 96, 3, 3),
        ("small", 384, 12, 6),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Little can be learnt at a time, as in the demo
# of recipes/maskfeat.py: hence small cuboids of one time step, and a second moment that forgets sooner; no clipping.
DEMO = {
    "size": "tiny",
    "modalities.video.frames": 4,
    "modalities.video.stride": 4,
    "modalities.video.size": 32,
    "modalities.video.patch": 8,
    "masking.video.cell": 1,
    "masking.video.smallest": 1,
    "masking.video.largest": 3,
    "masking.video.frames": (1, 1),
    "optimiser.base_lr": 1e-3,
    "optimiser.per": 0,
    "optimiser.betas": (0.9, 0.95),
    "clip_grad": None,
    "steps": 800,
    "batch": 32,
    "repeats": 8,
    "precision": "fp32",
    "checkpoint_every": 400,
}

if __name__ == "__main__":
    run.main(MASKFEAT_VIDEO, sizes=SIZES, demo=DEMO)
