"""MAE: masked autoencoding of images.

Paper    He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377
Run      accelerate launch recipes/mae.py --data path/to/images
Demo     accelerate launch recipes/mae.py
Cost     not measured yet (paper: ViT-L, 800 epochs, 42 h on 64 V100)
Result   not reproduced yet (paper: ImageNet-1K, ViT-B, 1600 epochs, 83.6 % top-1 after fine-tuning; default here: 800)
Differs  bf16 in place of fp16, so that no loss scaling is needed; the warm-up ends one step earlier; crops come from
         our own counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.image import Image

MAE = Recipe(
    name="mae",
    modalities={"image": Image(size=(224, 224), patch=16, crop="random_resized", scale=(0.2, 1.0))},  # appendix A.1
    masking={"image": RandomMasking()},  # table 1f
    budget=Ratio(0.75, rounding="kept_down"),  # figure 5; int(196 * (1 - 0.75)) = 49 stay
    corruption={"image": Drop()},
    encoder=JointEncoder(width=768, depth=12, heads=12, global_tokens=1),
    decoders={"image": SelfAttentionDecoder(width=512, depth=8, heads=16)},  # tables 1a, 1b
    tasks={"image": Task(modality="image", decoder="image", target=Pixels(normalise="token"))},  # table 1d
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1.5e-4, per=256, betas=(0.9, 0.95), weight_decay=0.05, no_decay=()),  # table 8
    schedule=WarmupCosine(warmup=40 / 800),  # table 8
    epochs=800.0,
    batch=4096,
    size="base",
)

# The encoders of table 3 with the default decoder (H has patches of 14 pixels); small and tiny are ours.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.image.width": decoder_width,
        "decoders.image.depth": decoder_depth,
        "decoders.image.heads": decoder_heads,
        "modalities.image.patch": patch,
    }
    for name, width, depth, heads, decoder_width, decoder_depth, decoder_heads, patch in (
        ("tiny", 96, 3, 3, 64, 2, 2, 16),
        ("small", 384, 12, 6, 256, 4, 8, 16),
        ("base", 768, 12, 12, 512, 8, 16, 16),
        ("large", 1024, 24, 16, 512, 8, 16, 16),
        ("huge", 1280, 32, 16, 512, 8, 16, 14),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Pixels are predicted raw, because normalising
# 8 x 8 patches of a small noisy picture leaves mostly noise, from which little is learnt in two minutes.
DEMO = {
    "size": "tiny",
    "modalities.image.size": (48, 48),
    "modalities.image.patch": 8,
    "tasks.image.target.normalise": "none",
    "optimiser.base_lr": 4e-3,
    "optimiser.per": 0,
    "steps": 600,
    "batch": 64,
    "repeats": 1,
    "precision": "fp32",
    "checkpoint_every": 300,
}

if __name__ == "__main__":
    run.main(MAE, sizes=SIZES, demo=DEMO)
