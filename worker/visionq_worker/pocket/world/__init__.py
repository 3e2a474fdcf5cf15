"""Pictures with their true answers: covers, charts, tables, scenes of shapes, pairs of these.

Covers of books and bar charts are asked for as JSON documents, too.
Start at `samples.sample`. One file per sort of picture; `canvas` is what they draw on, `words` what
they say, `fonts` how it looks, `level` how hard it is.
"""
