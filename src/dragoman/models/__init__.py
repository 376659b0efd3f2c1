"""The only rooms that import torch and transformers: resolve, load, harvest, decode, embedder.

What leaves them is numpy and text. Refuses where the libraries that models are read with are not installed.
"""

from dragoman.store.libraries import refuse_absent

refuse_absent(
    "what opens a model", *("torch", "transformers", "peft", "accelerate", "sentence_transformers"), extra="local"
)
