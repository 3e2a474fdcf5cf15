"""The first submit of a fresh process, timed from the first import; prints JSON.

Run as a script by its path, so that nothing but what is measured is imported:
`python tests/bench/first_submit.py ours|from-settings|bare URL`. The interpreter's own start is
the same for all and left out.
"""

from __future__ import annotations

import sys
from time import perf_counter, process_time

BEGAN = perf_counter(), process_time()

KEY = "inputs/" + "ab" * 32
QUESTION = "What was the revenue of the third quarter, and how does it compare to last year?"
HEAVY = ("torch", "transformers", "PIL", "numpy", "boto3", "botocore")


def ours(url: str) -> None:
    import visionq

    visionq.Client(url, namespace="bench").submit("ocr", KEY, QUESTION)


def from_settings(_url: str) -> None:
    """With settings read from file and environment, which loads pydantic."""
    import visionq

    visionq.Client.from_settings().submit("ocr", KEY, QUESTION)


def bare(url: str) -> None:
    from celery import Celery

    app = Celery("bare", broker=url, backend=url)
    task = {"kind": "ocr", "images": [{"ref": KEY}], "question": QUESTION, "version": 1}
    app.send_task("bench.noop", kwargs={"task": task})


def main() -> None:
    sort, url = sys.argv[1:]
    {"ours": ours, "from-settings": from_settings, "bare": bare}[sort](url)
    wall, cpu = perf_counter() - BEGAN[0], process_time() - BEGAN[1]
    import json

    print(json.dumps({"wall": wall, "cpu": cpu, "heavy": [m for m in HEAVY if m in sys.modules]}))


if __name__ == "__main__":
    main()
