"""From a row number to a sequence, in training order, and to the step that trained on it.

Knows no weights.
"""
