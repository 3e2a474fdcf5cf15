"""Three image questions through the whole service on this machine, then everything is stopped.

Starts Valkey, an S3 server and one worker, submits the pictures of this folder, shows the tasks
move, prints the answers. The pocket model, which is shipped, is asked about pictures of the small
world that it can read; any other one about those of `draw_pictures.py`. With `--model tiny` the
weights are random and the text is noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionq import Client, Result, TaskHandle
from visionq.contract import Timings
from visionq.errors import VisionqError
from visionq.kinds import BUILTIN_KINDS
from visionq.progress import ProgressLine, follow
from visionq.settings import load_settings
from visionq.terminal import one_line, printable
from visionq.up import Service, running_service, settings_flags

HERE = Path(__file__).parent
STATE_FOLDER = HERE.parent / ".state" / "demo"
NOISE_TOKENS = 60
"""Enough of a random model's answer to see that it is one."""


@dataclass(frozen=True)
class Job:
    """One of the demo's questions."""

    title: str
    kind: str
    pictures: tuple[str, ...]
    question: str | None
    """None: the kind's own."""


POCKET = "pocket"
POCKET_JOBS = (
    Job(
        "Introduce a stock from its chart",
        "analyze",
        ("world_chart.jpg",),
        "Could you please introduce this stock to me?",
    ),
    Job(
        "Title and author of a book",
        "ocr",
        ("world_cover.jpg",),
        "Help me get the title and author information of this book?",
    ),
    Job(
        "What differs between two pictures",
        "compare",
        ("world_pair.jpg", "world_pair_2.jpg"),
        None,
    ),
)
JOBS = (
    Job(
        "Introduce a stock from its revenue chart",
        "analyze",
        ("stock_chart.png",),
        "Could you please introduce this stock to me?",
    ),
    Job(
        "Title and author of a book",
        "ocr",
        ("book_cover.jpg",),
        "Help me get the title and author information of this book?",
    ),
    Job(
        "What differs between two pictures",
        "compare",
        ("shelf_before.png", "shelf_after.png"),
        "What is difference in this two images?",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=POCKET, help="pocket, a hub id or a folder; tiny: random weights"
    )
    parser.add_argument(
        "--state", type=Path, default=STATE_FOLDER, help="folder of queue, store and log"
    )
    given = parser.parse_args()
    model, state_folder = given.model, given.state
    state_folder.mkdir(parents=True, exist_ok=True)
    log = state_folder / "worker.log"
    log.unlink(missing_ok=True)
    try:
        with running_service(
            state_folder, worker_flags=[f"--model={model}"], worker_log=log
        ) as service:
            jobs = POCKET_JOBS if model == POCKET else JOBS
            show_all(service, jobs, is_noise=model == "tiny")
    except VisionqError as error:
        print(f"demo: {one_line(str(error))}", file=sys.stderr)
        if log.exists():
            print("\nThe worker's last lines:", file=sys.stderr)
            last = log.read_text(errors="replace").splitlines()[-5:]
            print(printable("\n".join(last)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    print(f"Everything is stopped; the results stay under {_short(state_folder / 's3')}.")
    return 0


def show_all(service: Service, jobs: Sequence[Job], *, is_noise: bool) -> None:
    urls = service.urls
    print(f"Valkey at {urls.broker_address}, S3 at {urls.s3_endpoint}, one worker starting.")
    if is_noise:
        print("The model has random weights: the way is real, the text is noise.")
    with Client.from_settings(load_settings(**settings_flags(urls))) as client:
        limit = NOISE_TOKENS if is_noise else None
        handles = [submit(client, job, limit) for job in jobs]
        for job, handle in zip(jobs, handles, strict=True):
            asked = job.question or BUILTIN_KINDS[job.kind].default_question
            print(f"\n{job.title}: {', '.join(job.pictures)}\n  {asked}")
            follow(handle, ProgressLine(sys.stdout, "  "), check=service.check)
            show(handle.result(0), handle, urls.s3_bucket)


def submit(client: Client, job: Job, limit: int | None) -> TaskHandle:
    pictures = [HERE / "pictures" / name for name in job.pictures]
    return client.submit(job.kind, pictures, job.question, max_new_tokens=limit)


def show(result: Result, handle: TaskHandle, bucket: str) -> None:
    """The answer, and what its result tells of it: not every result tells everything."""
    print("  > " + printable(result.text or "(no text)").replace("\n", "\n    "))
    if result.verdict is not None:
        reasons = ", ".join(result.verdict.reasons)
        print(f"  verdict: {result.verdict.outcome}{f' ({reasons})' if reasons else ''}")
    if result.provenance.reused_from is not None:
        print(f"  the answer of task {result.provenance.reused_from}, which asked the same")
    if phases := _phases(result.timings):
        print(f"  {phases}")
    if result.usage is not None:
        print(
            f"  {result.usage.prompt_tokens} prompt tokens "
            f"({result.usage.image_tokens} of images), "
            f"{result.usage.completion_tokens} generated"
        )
    print(f"  stored as s3://{bucket}/{handle.result_key}")


def _phases(timings: Timings) -> str:
    """The seconds of each phase that the task has gone through."""
    digits = {"queue": 2, "fetch": 3, "prepare": 3, "prefill": 2, "decode": 2}
    taken = {name: getattr(timings, f"{name}_seconds") for name in digits}
    return ", ".join(
        f"{name} {seconds:.{digits[name]}f} s"
        for name, seconds in taken.items()
        if seconds is not None
    )


def _short(folder: Path) -> str:
    """As seen from the clone, if it lies there."""
    clone = HERE.parent
    return str(folder.relative_to(clone) if folder.is_relative_to(clone) else folder)


if __name__ == "__main__":
    sys.exit(main())
