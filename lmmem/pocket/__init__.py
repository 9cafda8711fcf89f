"""The model organism: a small language model trained on real text, whose ground truth is known.

`pocket` has Pythia's architecture (GPT-NeoX) at a size that trains in minutes on two cores. Its
training data hide canaries: real passages, new to the rest of the text, that chance presents
0, 1, 2, 4 .. times. Checkpoints are ordinary Hugging Face folders. Whatever needs it trains it on
first use; ``python -m lmmem.pocket`` does so by hand. Knows nothing of the experiments.
"""
