"""The only rooms that import torch and transformers: resolve, load, harvest, decode, embed.

What leaves them is numpy and text.
"""
