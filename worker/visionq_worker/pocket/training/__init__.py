"""How the pocket model is trained: `python -m visionq_worker.pocket.training --help`.

`examples` makes batches of drawn pictures, `lesson` what a batch teaches, `trainer` takes steps,
`state` keeps what the next slice goes on from.
"""
