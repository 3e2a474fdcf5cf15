"""The work beside the loop, in another process: what it costs without sharing a GIL.

`python -m tests.bench_engine.beside_main`; the store comes from the environment.
"""

from __future__ import annotations

from time import sleep
from typing import Any

from tests.bench_engine.beside import Pace, jobs
from tests.bench_engine.children import serve
from visionq.objects import ObjectStore
from visionq.settings import load_settings


def main() -> None:
    todo = jobs(ObjectStore(load_settings().storage.address(), max_connections=32))

    def work(per_second: float, seconds: float) -> dict[str, Any]:
        pace = Pace(todo["all"], per_second)
        with pace.running():
            sleep(seconds)
        return {"per_second": pace.num_done / seconds}

    serve({"work": work})


if __name__ == "__main__":
    main()
