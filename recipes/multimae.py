"""MultiMAE: masked autoencoding of pictures, their depth and their semantic map, with one budget for all.

Paper    Bachmann et al. 2022, MultiMAE: Multi-modal Multi-task Masked Autoencoders, arXiv:2204.01678
Run      accelerate launch recipes/multimae.py --data path/to/pictures/depths/and/maps
Demo     accelerate launch recipes/multimae.py
Cost     not measured yet (paper: 8 A100; hours not given)
Result   not reproduced yet (paper: ViT-B, ImageNet-1K 83.3 % top-1, ADE20K 46.2 mIoU, NYUv2 RGB-D 56.0 mIoU after
         fine-tuning)
Differs  bf16 in place of fp16, so that no loss scaling is needed; where shares of the budget do not round to 98 tokens
         the nearest apportionment is taken, not a random one (`mmim/masking/dirichlet.py`); crops come from our own
         counter-based draws
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.cross_attention import CrossAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.dirichlet import Dirichlet
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.ids import Ids
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.depth import Depth
from modalities.image import Image
from modalities.semseg import SemSeg

TASKS = {
    "image": Task(modality="image", decoder="image", target=Pixels()),
    "norm_image": Task(modality="image", decoder="norm_image", target=Pixels(normalise="token")),
    "depth": Task(modality="depth", decoder="depth", target=Pixels(error="absolute")),
    "semseg": Task(modality="semseg", decoder="semseg", target=Ids()),
}

MULTIMAE = Recipe(
    name="multimae",
    modalities={  # section 4.1; one crop and one flip for all
        "image": Image(
            size=(224, 224), patch=16, scale=(0.2, 1.0), interpolation="bilinear", positions="sincos_row_first"
        ),
        "depth": Depth(size=(224, 224), patch=16, scale=(0.2, 1.0)),
        "semseg": SemSeg(size=(224, 224), patch=16, scale=(0.2, 1.0), classes=133, stride=4, class_width=64),
    },
    masking={"image": RandomMasking(), "depth": RandomMasking(), "semseg": RandomMasking()},
    budget=Dirichlet(total=98, alpha=1.0),  # section 3.2; a sixth of 588
    corruption={"image": Drop(), "depth": Drop(), "semseg": Drop()},
    encoder=JointEncoder(width=768, depth=12, heads=12, global_tokens=1, final_norm=False, init="apart"),
    decoders={task: CrossAttentionDecoder(width=256, depth=2, heads=8) for task in TASKS},  # section 3.3
    tasks=TASKS,
    objective={"reconstruction": Reconstruction(average="samples")},
    optimiser=AdamW(
        base_lr=1e-4, per=256, betas=(0.9, 0.95), weight_decay=0.05, no_decay=(), decay_all=True
    ),  # official code, whose lists of exemptions are never read
    schedule=WarmupCosine(warmup=40 / 1600),
    epochs=1600.0,
    batch=2048,
    size="base",
)

# The published encoder is B; tiny, small and large are ours, the last with the published decoders.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.depth": depth,
        "encoder.heads": heads,
        **{
            f"decoders.{task}.{field}": value
            for task in TASKS
            for field, value in (("width", decoder_width), ("depth", decoder_depth), ("heads", decoder_heads))
        },
    }
    for name, width, depth, heads, decoder_width, decoder_depth, decoder_heads in (
        ("tiny", 96, 3, 3, 64, 1, 2),
        ("small", 384, 12, 6, 128, 2, 4),
        ("base", 768, 12, 12, 256, 2, 8),
        ("large", 1024, 24, 16, 256, 2, 8),
    )
}

# What changes when no --data is given: small enough for two CPU cores. A sixth of the tokens stays, as published.
DEMO = {
    "size": "tiny",
    **{f"modalities.{name}.size": (48, 48) for name in ("image", "depth", "semseg")},
    **{f"modalities.{name}.patch": 8 for name in ("image", "depth", "semseg")},
    "modalities.semseg.classes": 7,  # six shapes, and what is behind
    "modalities.semseg.class_width": 16,
    "budget.total": 18,
    "optimiser.base_lr": 2e-3,
    "optimiser.per": 0,
    "steps": 200,
    "batch": 64,
    "precision": "fp32",
    "checkpoint_every": 100,
}

if __name__ == "__main__":
    run.main(MULTIMAE, sizes=SIZES, demo=DEMO)
