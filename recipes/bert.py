"""BERT: masked language modelling.

Paper    Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding,
         arXiv:1810.04805
Run      accelerate launch recipes/bert.py --data path/to/texts [--modalities.text.tokenizer path/to/folder]
Demo     accelerate launch recipes/bert.py
Spans    --masking.text span --corruption.text sentinels --decoders.text causal --modalities.text.sentinels 100 (T5's)
Cost     not measured yet (paper: BERT-base, 4 days on 16 TPU chips)
Result   not reproduced yet (paper: BERT-base, 1,000,000 steps, GLUE test average 79.6 after fine-tuning)
Differs  the masked words alone are predicted, not whether one sentence follows another; so there is one segment, whose
         vector is part of the positions; no dropout; texts are lines or files and not filled up to 512 tokens, which
         are the limit from the start (paper: 128 in 90 % of the steps); a tokenizer that is trained on the corpus cuts
         byte pairs; a cosine down in place of a line; linear layers start Xavier-uniform (official code: normal, 0.02,
         cut off at two deviations); a text of one token has nothing hidden (official code: at least one)
"""

from mmim import run
from mmim.corruption.substitute import Substitute
from mmim.decoders.linear import LinearDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.ids import Ids
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from mmim.training.schedule import WarmupCosine
from modalities.text import Text

BERT = Recipe(
    name="bert",
    modalities={"text": Text(vocabulary_size=30522, length=512)},  # section 3; appendix A.2
    masking={"text": RandomMasking()},  # section 3.1
    budget=Ratio(0.15, rounding="nearest"),  # section 3.1; round(512 * 0.15) = 77 are hidden
    corruption={"text": Substitute(mask=0.8, random=0.1)},  # section 3.1
    encoder=JointEncoder(width=768, depth=12, heads=12, norm="post", embed_norm=True, final_norm=False, eps=1e-12),
    decoders={"text": LinearDecoder(transform=True, tied=True, eps=1e-12)},  # official code
    tasks={"text": Task(modality="text", decoder="text", target=Ids())},
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-4, per=0, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, no_decay=()),  # A.2, code
    schedule=WarmupCosine(warmup=0.01),  # A.2: 10,000 of 1,000,000 steps
    clip_grad=1.0,  # official code
    epochs=40.0,  # A.2: about 40
    batch=256,  # A.2
    size="base",
)

# Base and large of section 3; small is BERT-Small of Turc et al. 2019 (arXiv:1908.08962), tiny is ours.
SIZES = {
    name: {"encoder.width": width, "encoder.depth": depth, "encoder.heads": heads}
    for name, width, depth, heads in (
        ("tiny", 64, 2, 4),
        ("small", 512, 4, 8),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
    )
}

# What changes when no --data is given: small enough for two CPU cores. Half of the hidden words become [MASK] and the
# others mostly stay, since in so few steps an encoder forgets the words that it is never asked for.
DEMO = {
    "size": "tiny",
    "modalities.text.vocabulary_size": 512,
    "modalities.text.length": 64,
    "corruption.text.mask": 0.5,
    "budget.ratio": 0.2,
    "optimiser.base_lr": 3e-3,
    "schedule.warmup": 0.05,
    "steps": 1000,
    "batch": 64,
    "micro_batch": 32,
    "precision": "fp32",
    "checkpoint_every": 500,
}

if __name__ == "__main__":
    run.main(BERT, sizes=SIZES, demo=DEMO)
