"""How the pocket model is trained: `python -m visionq_worker.pocket.training --help`.

`examples` puts drawn pictures as the service would, `batches` makes tensors of them, `supply` has
them drawn; `lesson` is what a batch teaches, `trainer` takes steps, `state` keeps what the next
slice goes on from.
"""
