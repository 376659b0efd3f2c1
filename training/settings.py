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
AV_PAIRS = 400_000
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
