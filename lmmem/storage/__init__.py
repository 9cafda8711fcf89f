"""Files that are whole or absent: measured tables, what the Hub has, and what a number was made with.

Knows nothing of models, nor of what a column means.
"""
