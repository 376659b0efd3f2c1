"""The only rooms that import torch and transformers: resolve, load, harvest, decode, embedder.

What leaves them is numpy and text.
"""
