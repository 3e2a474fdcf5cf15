"""`python -m tests.bench_engine.gpu`: the engine on a GPU, beside its floors and beside `generate`.

Random weights of the published size, made on the device; nothing is downloaded. Under ten minutes
on one H100 or H200. It judges no one: the exit code is 0 unless a section broke. With `--device
cpu` a toy takes the same paths in half a minute, to try the bench out; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

from tests.bench_engine.gpu.device import device_name, free_memory
from tests.bench_engine.gpu.measure import SECTIONS, Bench
from tests.bench_engine.gpu.plan import CPU, GPU
from tests.bench_engine.gpu.report import Report
from visionq_worker.model.attention import ATTENTION_NAMES


def main() -> int:
    wanted = read_arguments(sys.argv[1:])
    logging.basicConfig(level="INFO" if wanted.verbose else "WARNING", stream=sys.stderr)
    device = torch.device(wanted.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # a toy's operations are too small for more
    report = Report(_facts(device))
    changes = {"step_tokens": wanted.step_tokens} if wanted.step_tokens else {}
    bench = Bench(
        plan=CPU if device.type == "cpu" else GPU,
        device=device,
        report=report,
        attention=wanted.attention,
        changes=changes,
        is_compiled=wanted.compile,
        say=_say,
    )
    for name in wanted.sections or SECTIONS:
        _run(bench, name)
        if wanted.json:  # after each section: a run that is cut off has told what it knew
            wanted.json.write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    print(report.as_text())
    return 1 if report.troubles else 0


def _run(bench: Bench, name: str) -> None:
    """One section; what it raises is reported, and the others go on."""
    _say(f"{name} ...")
    began = perf_counter()
    try:
        SECTIONS[name](bench)
    except Exception as error:  # the table of a rented machine must not be lost to one section
        traceback.print_exc()
        bench.report.troubles.append(f"{name}: {type(error).__name__}: {error}")
    free_memory()
    _say(f"{name}: {perf_counter() - began:.0f} s")


def read_arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_engine.gpu", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument("--attention", choices=ATTENTION_NAMES, default="auto")
    parser.add_argument("--step-tokens", type=int, help="of the engine, if not as shipped")
    parser.add_argument(
        "--compile", action="store_true", help="static batches with torch.compile: takes minutes"
    )
    parser.add_argument("--verbose", action="store_true", help="with the engine's log")
    wanted = parser.parse_args(given)
    if unknown := [name for name in wanted.sections if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if wanted.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu tries the bench out")
    return wanted


def _facts(device: torch.device) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
