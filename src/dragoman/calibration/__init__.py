"""A probability on a person's own models: what sentences pass on unseen windows, calibrated where nobody planted truth.

``deal``: documents into evidence and outcome. ``draw``: latents at random. ``held_out``: windows of the outcome's
documents. ``made``: known answers and nulls made in the models. ``cast``: what is said, one run folder. ``outcome``:
what the source's model makes of each sentence. ``fitted``: the calibration. ``body``: all of it, step by step.
"""
