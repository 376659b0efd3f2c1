"""A probability on a person's own models: what held-out documents bear out, calibrated where nobody planted truth.

``deal``: documents into evidence and outcome. ``draw``: latents at random. ``inputs``: what is read. ``held_out``: what
the outcome's documents tell of each latent. ``constructed``: known answers and nulls built in the models. ``texts``:
what is said, one run folder. ``outcome``: which sentences are borne out. ``fitted``, ``answers``: the calibration.
``calibrate``: all of it, step by step.
"""
