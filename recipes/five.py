"""Five: one encoder for images, videos, sounds, point clouds and texts, in any combination.

Paper    none; our own recipe, of parts of CAV-MAE (Gong et al. 2023, arXiv:2210.07839), MultiMAE (Bachmann et al. 2022,
         arXiv:2204.01678) and CLIP (Radford et al. 2021, arXiv:2103.00020)
Run      accelerate launch recipes/five.py --data pairs=FOLDER --data clips=FOLDER --data captions=captions.jsonl
Demo     accelerate launch recipes/five.py
Method   each modality has blocks of its own, then all share some. Half of every modality is hidden and predicted from
         what is visible of all that a sample has; each alone, with norms of its own, is to find the others of the same
         sample among the batch. A sample may lack any of the five
Cost     not measured yet at this size
Result   on the sample world: docs/results.md
"""

from mmim import run
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.masking.tube import TubeMasking
from mmim.model import Task
from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.chamfer import Chamfer
from mmim.targets.ids import Ids
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.audio import Audio
from modalities.image import Image
from modalities.points import Points
from modalities.text import Text
from modalities.video import Video

FIVE = Recipe(
    name="five",
    modalities={
        # Neither mirrored nor stretched: captions and sounds say where things are and how large.
        "image": Image(size=(224, 224), patch=16, scale=(0.5, 1.0), flip=False),
        "video": Video(frames=16, stride=4, size=224, patch=16, tubelet=2),
        "audio": Audio(frames=512, mel=128, patch=16),
        "points": Points(points=1024, groups=64, group_size=32, augment=False, norm="layer"),
        "text": Text(vocabulary_size=30522, length=64),
    },
    masking={
        "image": RandomMasking(),
        "video": TubeMasking(),
        "audio": RandomMasking(),
        "points": RandomMasking(),
        "text": RandomMasking(),
    },
    budget=Ratio(0.5, rounding="hidden_down"),
    encoder=JointEncoder(width=768, branch_depth=9, depth=3, heads=12, own_norms=True, modality_vectors=True),
    decoders={"joint": SelfAttentionDecoder(width=512, depth=4, heads=16, modality_vectors=True)},
    tasks={
        "image": Task(modality="image", decoder="joint", target=Pixels(normalise="token")),
        "video": Task(modality="video", decoder="joint", target=Pixels(normalise="channel", units="raw")),
        "audio": Task(modality="audio", decoder="joint", target=Pixels(normalise="token")),
        "points": Task(modality="points", decoder="joint", target=Chamfer(norm="l2")),
        "text": Task(modality="text", decoder="joint", target=Ids(), weight=0.1),
    },
    objective={
        "reconstruction": Reconstruction(),
        "contrastive": Contrastive(directions="both", temperature=0.07, learned=True, centred=True, weight=0.1),
    },
    optimiser=AdamW(base_lr=1.5e-4, per=256, betas=(0.9, 0.95), weight_decay=0.05),
    schedule=WarmupCosine(warmup=0.05),
    epochs=100.0,
    batch=1024,
    size="base",
)

SIZES = {
    name: {
        "encoder.width": width,
        "encoder.branch_depth": branch_depth,
        "encoder.depth": depth,
        "encoder.heads": heads,
        "decoders.joint.width": decoder_width,
        "decoders.joint.depth": decoder_depth,
        "decoders.joint.heads": decoder_heads,
    }
    for name, width, branch_depth, depth, heads, decoder_width, decoder_depth, decoder_heads in (
        ("tiny", 96, 2, 1, 3, 64, 1, 2),
        ("small", 384, 9, 3, 6, 256, 4, 8),
        ("base", 768, 9, 3, 12, 512, 4, 16),
        ("large", 1024, 18, 6, 16, 512, 4, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Pixels are predicted raw, since normalised
# patches of small noisy pictures are mostly noise, and everything is cut in the middle. A quarter is hidden: an object
# covers few patches, and with half of them gone modalities find each other later.
DEMO = {
    "size": "tiny",
    "budget.ratio": 0.25,
    "modalities.image.size": (48, 48),
    "modalities.image.patch": 8,
    "modalities.image.crop": "centre",
    "modalities.video.frames": 8,
    "modalities.video.stride": 4,
    "modalities.video.size": 32,
    "modalities.video.patch": 8,
    "modalities.video.crop": "centre",
    "modalities.audio.frames": 192,
    "modalities.audio.mel": 32,
    "modalities.points.points": 256,
    "modalities.points.groups": 16,
    "modalities.points.group_size": 8,
    "modalities.points.colour": True,
    "modalities.text.vocabulary_size": 512,
    "modalities.text.length": 32,
    "tasks.image.target.normalise": "none",
    "tasks.video.target.normalise": "none",
    "tasks.audio.target.normalise": "none",
    "objective.contrastive.weight": 1.0,
    "optimiser.base_lr": 2e-3,
    "optimiser.per": 0,
    "steps": 70,
    "batch": 64,
    "micro_batch": 64,
    "precision": "fp32",
    "checkpoint_every": 70,
}

if __name__ == "__main__":
    run.main(FIVE, sizes=SIZES, demo=DEMO)
