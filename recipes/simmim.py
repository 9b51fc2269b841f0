"""SimMIM: masked image modelling with mask tokens in the encoder and a linear head.

Paper    Xie et al. 2022, SimMIM: a Simple Framework for Masked Image Modeling, arXiv:2111.09886
Run      accelerate launch recipes/simmim.py --data path/to/images [--size swin-base]
Demo     accelerate launch recipes/simmim.py
Cost     not measured yet (paper: Swin-B on one machine of 16 GPUs; hours not given)
Result   not reproduced yet (paper: ImageNet-1K, ViT-B, 800 epochs, 83.8 % top-1 after fine-tuning)
Differs  bf16 in place of fp16; a cosine over the whole run in place of the official code's fall by ten at epoch 700 of
         800, and a warm-up from zero; the head starts Xavier-uniform; crops come from our own counter-based draws
"""

from dataclasses import replace
from typing import Any

from mmim import run
from mmim.corruption.mask_token import MaskToken
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.encoders.swin import SwinEncoder
from mmim.masking.budget import Ratio
from mmim.masking.cell import CellMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.image import Image

VIT = JointEncoder(
    width=768,
    depth=12,
    heads=12,
    bias="qv",
    global_tokens=1,
    relative_bias=True,
    layer_scale=0.1,
    drop_path=0.1,
    init="scaled",
)
SWIN = SwinEncoder(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=6)

SIMMIM = Recipe(
    name="simmim",
    modalities={
        "image": Image(
            size=(224, 224),
            patch=16,
            crop="random_resized",
            scale=(0.67, 1.0),
            interpolation="bilinear",
            positions="none",
        )
    },  # section 4.1, official code
    masking={"image": CellMasking(cell=2)},  # 32 pixels, section 3.2
    budget=Ratio(0.6, rounding="hidden_up"),  # section 4.1; ceil(0.6 * 49) = 30 cells
    corruption={"image": MaskToken()},  # section 3.1
    encoder=VIT,
    decoders={"image": LinearDecoder()},  # section 3.3
    tasks={"image": Task(modality="image", decoder="image", target=Pixels(error="absolute"))},  # section 3.4
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-4, per=512, betas=(0.9, 0.999), weight_decay=0.05, no_decay=("*global_tokens",)),
    schedule=WarmupCosine(warmup=10 / 800),
    clip_grad=5.0,
    epochs=800.0,
    batch=2048,
    size="vit-base",
)

_SWIN: dict[str, Any] = {
    "modalities.image.size": (192, 192),
    "modalities.image.patch": 4,
    "modalities.image.embed_norm": True,
    "masking.image.cell": 8,  # 32 pixels
    "optimiser.no_decay": ("*relative_position_bias_table", "*mask_token"),
}

# ViT-B, Swin-B and Swin-L as the paper trains them; the tiny ones are ours, for a CPU.
SIZES: dict[str, dict[str, Any]] = {
    "vit-tiny": {"encoder": replace(VIT, width=96, depth=3, heads=3)},
    "vit-base": {"encoder": VIT},
    "swin-tiny": _SWIN
    | {
        "modalities.image.size": (64, 64),
        "encoder": replace(SWIN, width=24, depths=(2, 2), heads=(2, 4), window=4),
    },
    "swin-base": _SWIN | {"encoder": SWIN},
    "swin-large": _SWIN | {"encoder": replace(SWIN, width=192, heads=(6, 12, 24, 48), window=12)},
}

# What changes when no --data is given: small enough for two CPU cores. Cells of one patch, since 48 pixels hold only
# nine of two; Xavier weights without layer scale, since the published start, made for long runs, hardly moves here.
DEMO = {
    "size": "vit-tiny",
    "modalities.image.size": (48, 48),
    "modalities.image.patch": 8,
    "masking.image.cell": 1,
    "encoder.drop_path": 0.0,
    "encoder.layer_scale": None,
    "encoder.init": "xavier",
    "optimiser.base_lr": 4e-3,
    "optimiser.per": 0,
    "steps": 350,
    "batch": 64,
    "precision": "fp32",
    "checkpoint_every": 175,
}

if __name__ == "__main__":
    run.main(SIMMIM, sizes=SIZES, demo=DEMO)
