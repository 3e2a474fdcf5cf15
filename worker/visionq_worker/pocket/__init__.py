"""A small checkpoint of the published architecture that reads the pictures drawn here.

`world` draws pictures of a few sorts, endless and seeded, each with the true answer and with what
each of its places shows. Importing this package loads nothing heavy.
"""
