"""MaskFeat: predicting histograms of oriented gradients of images.

Paper    Wei et al. 2022, Masked Feature Prediction for Self-Supervised Visual Pre-Training, arXiv:2112.09133
Run      accelerate launch recipes/maskfeat.py --data path/to/images
Demo     accelerate launch recipes/maskfeat.py
Cost     not measured yet (paper: hours not given)
Result   not reproduced yet (paper: ImageNet-1K, ViT-B, 1600 epochs, 84.0 % top-1 after fine-tuning; default here: 300)
Differs  bf16 in place of fp16; a batch of 2048, where the official configuration says 256 for each machine and not how
         many machines; the warm-up starts at zero; linear layers start Xavier-uniform; blocks, cut exactly, and crops
         come from our own counter-based draws. The norm of its head is our encoder's last one: the same function
"""

from mmim import run
from mmim.corruption.mask_token import MaskToken
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.block import BlockMasking
from mmim.masking.budget import Ratio
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.hog import HOG
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.image import Image

MASKFEAT = Recipe(
    name="maskfeat",
    modalities={
        "image": Image(size=(224, 224), patch=16, crop="random_resized", scale=(0.5, 1.0), positions="learned")
    },  # official configuration
    masking={"image": BlockMasking(smallest=15, largest=78, aspect=0.3)},  # official code: 78 // 5 tokens at least
    budget=Ratio(0.4, rounding="nearest"),  # section 4.1; round(0.4 * 196) = 78 hidden
    corruption={"image": MaskToken()},  # section 3
    encoder=JointEncoder(width=768, depth=12, heads=12, global_tokens=1),
    decoders={"image": LinearDecoder()},  # section 3
    tasks={"image": Task(modality="image", decoder="image", target=HOG(bins=9, cell=8))},  # section 3.1
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=2e-4, per=256, betas=(0.9, 0.999), weight_decay=0.05, no_decay=()),
    schedule=WarmupCosine(warmup=30 / 300, min_lr=1e-6 / 2e-4),
    clip_grad=0.02,
    epochs=300.0,
    batch=2048,
    size="base",
)

# B and L of table 3; small and tiny are ours.
SIZES = {
    name: {"encoder.width": width, "encoder.depth": depth, "encoder.heads": heads}
    for name, width, depth, heads in (
        ("tiny", 96, 3, 3),
        ("small", 384, 12, 6),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Histograms of the scenes' noisy background can
# hardly be told, so that little is learnt at a time: hence small blocks, whose surroundings are seen, fixed positions,
# and a second moment that forgets sooner. Nothing is clipped: the published norm would hold back so short a run.
DEMO = {
    "size": "tiny",
    "modalities.image.size": (48, 48),
    "modalities.image.patch": 8,
    "modalities.image.positions": "sincos",
    "masking.image.smallest": 1,
    "masking.image.largest": 4,
    "optimiser.base_lr": 1e-3,
    "optimiser.per": 0,
    "optimiser.betas": (0.9, 0.95),
    "clip_grad": None,
    "steps": 900,
    "batch": 32,
    "precision": "fp32",
    "checkpoint_every": 450,
}

if __name__ == "__main__":
    run.main(MASKFEAT, sizes=SIZES, demo=DEMO)
