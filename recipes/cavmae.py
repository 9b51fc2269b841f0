"""CAV-MAE: masked autoencoding of pictures and their sound, and contrast between the two.

Paper    Gong et al. 2023, Contrastive Audio-Visual Masked Autoencoder, arXiv:2210.07839
Run      accelerate launch recipes/cavmae.py --data path/to/pairs
         MAE only: --objective.contrastive.weight 0; contrast only: --objective.reconstruction.weight 0
Demo     accelerate launch recipes/cavmae.py
Cost     not measured yet (official code: 4 GPUs of 12 to 48 GB; hours not given)
Result   not reproduced yet (paper: AudioSet-2M 51.2 mAP, VGGSound 65.5 % after fine-tuning, in batches of 108)
Differs  bf16 in place of fp16; starts afresh, while the official run starts from MAE's weights; negatives are those of
         all GPUs, not of one; a picture is what its file holds, and not one of ten frames of the clip; sounds are not
         rolled, and no noise is added; stereo is mixed down in place of its first channel
"""

from mmim import run
from mmim.corruption.drop import Drop
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.adam import Adam
from mmim.training.recipe import Recipe
from mmim.training.steps import StepDecay
from modalities.audio import Audio
from modalities.image import Image

CAVMAE = Recipe(
    name="cavmae",
    modalities={  # section 3.1; statistics and padding of the official code
        "audio": Audio(
            frames=1024,
            mel=128,
            patch=16,
            mean=-5.081,
            std=4.4849,
            deviations=1.0,
            padding="zeros",
            positions="sincos_row_first",  # its grid is mel x time, ours time x mel: half of the channels tell the time
        ),
        "image": Image(size=(224, 224), patch=16, crop="centre", flip=False),
    },
    masking={"audio": RandomMasking(), "image": RandomMasking()},  # section 3.2, "uniform"
    budget=Ratio(0.75, rounding="kept_down"),  # section 4.1; 128 of 512 and 49 of 196 stay
    corruption={"audio": Drop(), "image": Drop()},
    encoder=JointEncoder(
        width=768, branch_depth=11, depth=1, heads=12, eps=1e-5, modality_vectors=True, own_norms=True
    ),  # section 3.3, figure 1c
    decoders={"shared": SelfAttentionDecoder(width=512, depth=8, heads=16, eps=1e-5, modality_vectors=True)},
    tasks={
        "audio": Task(modality="audio", decoder="shared", target=Pixels(normalise="token")),
        "image": Task(modality="image", decoder="shared", target=Pixels(normalise="token")),
    },
    objective={
        "reconstruction": Reconstruction(),  # equation 5
        "contrastive": Contrastive(
            pairs=(("image", "audio"),), directions="one", temperature=0.05, chained=False, weight=0.01
        ),  # equations 1 and 6
    },
    optimiser=Adam(base_lr=5e-5, betas=(0.95, 0.999), l2=5e-7),  # official scripts
    schedule=StepDecay(first=10 / 25, every=5 / 25, fall=0.5),
    epochs=25.0,
    batch=48,
    size="base",
)

# The published encoder; rates go with the batch: 5e-5 with 48, 1e-4 with 120, 2e-4 with 256 ("scale+", "scale++").
# Small and tiny are ours.
SIZES = {
    name: {
        "encoder.width": width,
        "encoder.branch_depth": branch_depth,
        "encoder.heads": heads,
        "decoders.shared.width": decoder_width,
        "decoders.shared.depth": decoder_depth,
        "decoders.shared.heads": decoder_heads,
    }
    for name, width, branch_depth, heads, decoder_width, decoder_depth, decoder_heads in (
        ("tiny", 96, 2, 3, 64, 2, 2),
        ("small", 384, 11, 6, 256, 4, 8),
        ("base", 768, 11, 12, 512, 8, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Pixels are predicted raw, and contrast counts
# more, since a few hundred steps are too few for a hundredth of it.
DEMO = {
    "size": "tiny",
    "modalities.audio.frames": 192,
    "modalities.audio.mel": 64,
    "modalities.image.size": (48, 48),
    "modalities.image.patch": 8,
    "tasks.image.target.normalise": "none",
    "objective.contrastive.weight": 0.1,
    "optimiser.base_lr": 1e-3,
    "steps": 200,
    "batch": 32,
    "precision": "fp32",
    "checkpoint_every": 100,
}

if __name__ == "__main__":
    run.main(CAVMAE, sizes=SIZES, demo=DEMO)
