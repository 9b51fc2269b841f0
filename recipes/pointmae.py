"""Point-MAE: masked autoencoding of point clouds.

Paper    Pang et al. 2022, Masked Autoencoders for Point Cloud Self-supervised Learning, arXiv:2203.06604
Run      accelerate launch recipes/pointmae.py --data path/to/clouds
Demo     accelerate launch recipes/pointmae.py
Cost     not measured yet (not in the paper; its commands are for one GPU)
Result   not reproduced yet (paper: ShapeNet, 300 epochs, 85.18 % on ScanObjectNN's hardest split after fine-tuning)
Differs  linear layers of the encoder start Xavier-uniform, and those of groups and centres as torch starts them, in
         place of normal with deviation 0.02; the rate warms up from 0 in place of 1e-6, moves with every step in place
         of every epoch, and its cosine begins behind the warm-up; batch norms take their statistics over a micro-batch,
         64 samples unless --micro-batch says more, as their whole batch is 128 on one GPU; choices of points, scales,
         shifts and masks come from our own counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.chamfer import Chamfer
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.points import Points

POINTMAE = Recipe(
    name="pointmae",
    modalities={"points": Points(points=1024, groups=64, group_size=32)},  # section 4.1
    masking={"points": RandomMasking()},  # section 4.3
    budget=Ratio(0.6, rounding="hidden_down"),  # section 4.1; int(0.6 * 64) = 38 groups
    corruption={"points": Drop()},
    encoder=JointEncoder(
        width=384, depth=12, heads=6, bias="none", eps=1e-5, positions="every_block", drop_path=0.1
    ),  # section 4.1, official code
    decoders={
        "points": SelfAttentionDecoder(
            width=384,
            depth=4,
            heads=6,
            bias="none",
            eps=1e-5,
            positions="every_block",
            project="none",
            drop_path=0.1,
        )
    },  # likewise
    tasks={"points": Task(modality="points", decoder="points", target=Chamfer(norm="l2"))},  # section 3.3
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-3, per=0, betas=(0.9, 0.999), weight_decay=0.05, no_decay=("*token*",)),  # section 4.1
    schedule=WarmupCosine(warmup=10 / 300, min_lr=1e-6 / 1e-3),  # official code
    epochs=300.0,
    batch=128,
    precision="fp32",
    size="base",
)

# The model of the paper; tiny is ours, for a CPU.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.points.width": width,
        "decoders.points.depth": decoder_depth,
        "decoders.points.heads": heads,
    }
    for name, width, depth, heads, decoder_depth in (("tiny", 96, 3, 3, 1), ("base", 384, 12, 6, 4))
}

# What changes when no --data is given: small enough for two CPU cores, on which the point MLPs cost most.
DEMO = {
    "size": "tiny",
    "modalities.points.points": 256,
    "modalities.points.groups": 24,
    "modalities.points.group_size": 12,
    "encoder.drop_path": 0.0,
    "decoders.points.drop_path": 0.0,
    "steps": 250,
    "batch": 32,
    "checkpoint_every": 125,
}

if __name__ == "__main__":
    run.main(POINTMAE, sizes=SIZES, demo=DEMO)
