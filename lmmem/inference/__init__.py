"""What a model says, and how likely it finds the truth: decoding, scoring and noise on the weights, fast.

Knows nothing of text, tokenizers or the order of training: token ids only.
"""
