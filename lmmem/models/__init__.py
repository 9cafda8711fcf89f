"""From a short name and a training step to a model and its tokenizer.

Knows nothing of the order in which a model met its training data.
"""
