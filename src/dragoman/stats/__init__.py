"""Pure numbers: arrays in, estimates out. Features are the unit of analysis, never samples.

Every result is an ``Estimate`` that names its null, or a plain array; numpy and scipy only.
"""
