"""OmniMAE: masked autoencoding of pictures and clips in one encoder.

Paper    Girdhar et al. 2023, OmniMAE: Single Model Masked Pretraining on Images and Videos, arXiv:2206.08356
Run      accelerate launch recipes/omnimae.py --data path/to/pictures/and/videos
Demo     accelerate launch recipes/omnimae.py
Cost     not measured yet (official configuration: 64 GPUs; hours not given)
Result   not reproduced yet (paper: ViT-B, ImageNet-1K 83.0 %, SSv2 69.5 % top-1 after fine-tuning, 1600 epochs; default
         here: 800)
Differs  bf16 in place of fp16; a batch mixes pictures and clips as they come, while the official one has batches of one
         kind in turn; a clip is taken once where a file is opened, not four times (--repeats 4 does it for both kinds);
         clips are counted in frames (every second of SSv2's 12 a second), not cut to 2.7 s; the warm-up starts at 0 in
         place of 1e-6; crops come from our own counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.each import Each
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.image import Image
from modalities.video import Video

TARGET = Pixels(normalise="channel", units="raw")  # official code; 1e-6 inside the root, where VideoMAE has it outside

OMNIMAE = Recipe(
    name="omnimae",
    modalities={
        "image": Image(size=(224, 224), patch=16, frames=2, positions="flat", scale=(0.2, 1.0)),  # section 3: a clip
        "video": Video(
            frames=16, stride=2, size=224, patch=16, tubelet=2, crop="random_resized", scale=(0.08, 1.0), flip=False
        ),
    },
    shared_embedders={"image": "video"},
    masking={"image": RandomMasking(), "video": RandomMasking()},  # official configuration; tubes are an ablation
    budget=Each(of={"image": Ratio(0.75, rounding="hidden_down"), "video": Ratio(0.9, rounding="hidden_down")}),
    corruption={"image": Drop(), "video": Drop()},
    encoder=JointEncoder(width=768, depth=12, heads=12),
    decoders={
        "shared": SelfAttentionDecoder(width=384, depth=4, heads=16, bias="none", project="last", shared_head=True)
    },  # official code; positions come before the projection
    tasks={
        "image": Task(modality="image", decoder="shared", target=TARGET),
        "video": Task(modality="video", decoder="shared", target=TARGET),
    },
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1.6e-3, per=0, betas=(0.9, 0.95), weight_decay=0.05, no_decay=()),
    schedule=WarmupCosine(warmup=0.05),
    epochs=800.0,
    batch=2048,
    size="base",
)

# The published encoders and decoders (H has patches of 14 pixels); small and tiny are ours.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.shared.width": decoder_width,
        "decoders.shared.depth": decoder_depth,
        "decoders.shared.heads": decoder_heads,
        "modalities.image.patch": patch,
        "modalities.video.patch": patch,
    }
    for name, width, depth, heads, decoder_width, decoder_depth, decoder_heads, patch in (
        ("tiny", 96, 3, 3, 64, 2, 2, 16),
        ("small", 384, 12, 6, 192, 4, 8, 16),
        ("base", 768, 12, 12, 384, 4, 16, 16),
        ("large", 1024, 24, 16, 512, 4, 16, 16),
        ("huge", 1280, 32, 16, 512, 8, 16, 14),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Pixels are predicted raw, as in the demos of MAE
# and VideoMAE, and clips hide three quarters, since these are short.
DEMO = {
    "size": "tiny",
    "modalities.image.size": (32, 32),
    "modalities.image.patch": 8,
    "modalities.video.frames": 8,
    "modalities.video.stride": 4,
    "modalities.video.size": 32,
    "modalities.video.patch": 8,
    "modalities.video.scale": (0.5, 1.0),
    "budget.of.video.ratio": 0.75,
    "tasks.image.target.normalise": "none",
    "tasks.video.target.normalise": "none",
    "optimiser.base_lr": 4e-3,
    "steps": 200,
    "batch": 64,
    "repeats": 4,
    "precision": "fp32",
    "checkpoint_every": 100,
}

if __name__ == "__main__":
    run.main(OMNIMAE, sizes=SIZES, demo=DEMO)
