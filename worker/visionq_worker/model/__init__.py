"""Phi-3-Vision on transformers, without remote code: importing this package loads nothing heavy.

Start at `weights.load_model`. One file per idea: `config` the numbers, `geometry` what an image
costs, `pixels` image to tensor, `processor` prompt to ids, `vision` pixels to embeddings, `phi3v`
the model, `checkpoint` where the files lie, `auto` transformers' Auto classes, `tiny` a checkpoint
for tests, `small` what such checkpoints share.
"""
