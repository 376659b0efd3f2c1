"""Every number the shipped weights depend on. Seeds fixed; nothing here was chosen on the 225 reported features."""

from __future__ import annotations

SEED = 20260507

# Blocks: settled by sweep.py (training/results/sweep.json; docs/decisions.md says why).
SOURCE_BLOCK = 23
TARGET_BLOCK = 12

# Corpus split. A held-out topic's documents are never shown to an AV; test and dev documents neither.
HELDOUT_TOPICS = 27
TEST_SHARE = 0.08
DEV_SHARE = 0.04
OPENING_CHARACTERS = 320
MAP_DOCUMENTS = 1000
DIRECT_PER_CATEGORY = 200
JUDGE_PER_CATEGORY = 120
TEST_PER_CATEGORY = 30
HELDOUT_PER_TOPIC = 20
HUMAN_PACKED = {"map": 300, "direct": 1500, "judge": 900, "test": 400}  # human passages that the package carries

# Positions: token ends both tokenizers share, at a word's end, not among the first tokens (alignment.md section 3).
MIN_POSITION = 10
PAIRS_PER_DOCUMENT = 10

# Documents of the map, the direct table and the judging are written later than the corpus, with a seed of their own.
FRESH_SEED = SEED + 11
FRESH_PER_PROMPT = 6

# SAE
D_SAE = 6144
TOPK = 32
SAE_STEPS = 6000
SAE_BATCH = 8192
SAE_RATE = 4e-4

# AVs: LoRA on every linear layer; one annealed round. Steps: what fits the seconds, measured, see make.py.
LORA_RANK = 16
LORA_ALPHA = 32
AV_PAIRS = 200_000
AV_BATCH = 256
AV_RATE = 1.0e-3
AV_SECONDS = 480
NULL_SHARE = 0.05  # vectors without a meaning among an AV's rows, told "nothing in particular"

# ARs: the base model up to the block, LoRA, and a linear head.
AR_RANK = 8
AR_ALPHA = 16
AR_RATE = 1.0e-3
AR_SECONDS = 150

# The target model's own dictionary, for the way back.
TARGET_D_SAE = 3072

FEATURES_PER_CATEGORY = 5

# A reader of many sites (many.py): blocks read, those kept for testing alone, and how much of everything.
MANY_BLOCKS: dict[str, tuple[int, ...]] = {
    "tiny-smollm2": (5, 9, 13, 17, 20, 23, 26),
    "tiny-gemma": (6, 9, 12, 15),
}
MANY_UNSEEN = (("tiny-smollm2", 13), ("tiny-smollm2", 26))
MANY_SECOND = ("tiny-smollm2", 23)  # a second dictionary here, of another seed and width, for testing alone
MANY_POSITIONS = 1_500_000
MANY_PER_DOCUMENT = 20
MANY_D_SAE = 4096
MANY_SAE_STEPS = 4000
MANY_CORRELATED = 300_000  # positions that correlations are taken over
MANY_HELD_OUT = 0.4  # share of all latents above which no more are left out of training
MANY_JUDGED = 640  # latents of a dictionary that are judged: drawn at MANY_SECOND, topped up at MANY_OTHERWISE
MANY_OTHERWISE = (("tiny-gemma", 12), ("tiny-smollm2", 13), ("tiny-smollm2", 26))
MANY_WORDS = 200  # words that some latent fires on and no training text quotes
MANY_COMMON = 5e-4  # share of the positions above which a word is too common to be left out of texts
MANY_LARGEST = 100  # latents that one may correlate with to be drawn
MANY_ROWS = 115_200  # 450 steps of 256, two passes: equal texts and steps for every arm
MANY_STEPS = 900
MANY_BATCH = 256
# Shares of the kinds of vectors; nulls besides.
MANY_MIX = {"activation": 0.40, "row": 0.25, "direct": 0.15, "mapped": 0.20}
SITE_DROPPED = 0.3
