"""What a carried direction or a text is worth, measured without labels, each measure beside what chance would reach.

``firing``: which words a feature fires on, and whether texts name them. ``claims``: the sentences of a text, and
whether where the feature fires bears each of them out.
"""
