"""What a schema costs a token on the CPU path: tiny model, one request and sixteen at once.

Wall and CPU time of the same number of tokens with and without a mask, in one process and in turns.
The tiny vocabulary has 576 tokens; what a mask over the published 32,064 takes stands in
`ARCHITECTURE.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.timing import Cost, interleave, micros
from tests.bench_engine.children import Child, starting_child

NUM_TOKENS = 128
COUNTS = (1, 16)


def measure_masks(rig: Rig) -> Iterator[Reading]:
    with starting_child("tests.bench_engine.masks_main") as child:
        child.wait_until_ready()
        for count in COUNTS:
            yield _reading(child, rig, count)


def _reading(child: Child, rig: Rig, count: int) -> Reading:
    num_tokens = rig.count(NUM_TOKENS, least=8)

    def generate(has_schema: bool) -> Cost:
        said = child.ask("generate", count=count, num_tokens=num_tokens, has_schema=has_schema)
        return Cost(said["wall"], said["cpu"]).per(count * num_tokens)

    variants = {"free": partial(generate, False), "held": partial(generate, True)}
    costs = interleave(variants, rig.rounds)
    free, held = costs["free"], costs["held"]
    return Reading(
        bar="masks",
        what=f"seconds per token with a schema / without, {count} at once",
        measured=held.wall / free.wall,
        detail=(
            f"{micros(held.wall)} / {micros(free.wall)} a token; "
            f"CPU {micros(held.cpu)} / {micros(free.cpu)}"
        ),
    )
