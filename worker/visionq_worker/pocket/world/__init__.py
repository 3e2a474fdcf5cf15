"""Pictures with their true answers: book covers, charts, tables, scenes of shapes, pairs of these,
and JSON documents about covers and charts.

Start at `samples.sample`. One file per sort of picture; `canvas` is what they draw on, `words` what
they say, `fonts` how it looks, `level` how hard it is.
"""
