"""Which sequences to ask about, and what was measured on them, as tidy tables.

Knows nothing of figures, and no statistics.
"""
