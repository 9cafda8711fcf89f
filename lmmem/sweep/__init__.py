"""Run many independent measurements, here or on other machines, and lose none of them.

Knows nothing of models, nor of what is measured.
"""
