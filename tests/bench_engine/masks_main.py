"""The tiny engine in a process of its own, asked for text with and without a schema.

`python -m tests.bench_engine.masks_main`. Both sides generate the same number of tokens: the schema
is a string that may not end before.
"""

from __future__ import annotations

from time import perf_counter, process_time
from typing import Any

import torch

from tests.bench_engine.children import serve
from tests.bench_engine.engines import EngineSpec, build
from visionq.schemas import strict_schema
from visionq_worker.engine.request import Engine, Request
from visionq_worker.model.processor import ModelInputs

SCHEMA = {"type": "string", "minLength": 3_000, "maxLength": 4_000}
PROMPT_TOKENS = 32


def main() -> None:
    engine = build(EngineSpec(sort="ours", has_caches=False))

    def generate(count: int, num_tokens: int, has_schema: bool) -> dict[str, Any]:
        requests = [_request(engine, number, num_tokens, has_schema) for number in range(count)]
        wall, cpu = perf_counter(), process_time()
        handles = [engine.submit(request) for request in requests]
        given = sum(len(handle.result().token_ids) for handle in handles)
        assert given == count * num_tokens, "nobody ends before the limit"
        return {"wall": perf_counter() - wall, "cpu": process_time() - cpu}

    generate(2, 4, has_schema=True)
    serve({"generate": generate})


def _request(engine: Engine, number: int, num_tokens: int, has_schema: bool) -> Request:
    ids = torch.arange(PROMPT_TOKENS)[None, :] + 260 + number
    mask = engine.mask(strict_schema(SCHEMA)) if has_schema else None
    return Request(inputs=ModelInputs(input_ids=ids), max_new_tokens=num_tokens, logit_mask=mask)


if __name__ == "__main__":
    main()
