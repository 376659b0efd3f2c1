"""What verbalizers are and how their checkpoints want to be fed; nothing here imports torch.

``protocol``: what a verbalizer does. ``sidecar``: the file beside a checkpoint. ``prompt``: the prompt and its slot.
"""
