"""Numbers of rows and texts: how compressible a text is, how far apart two rows are, how often one recurs.

Knows no models: it works without torch.
"""
