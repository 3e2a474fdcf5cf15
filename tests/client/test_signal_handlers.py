"""Calls out of a signal handler, which interrupts a call of the same thread at any point."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.client.hand_worker import HandWorker
from tests.support.workers import environment
from visionq.local import LocalUrls

SCRIPT = """
import faulthandler, json, os, random, signal, sys
import visionq

faulthandler.dump_traceback_later(50, exit=True)
client = visionq.Client.from_settings()
pick = random.Random(int(sys.argv[1]))
ids, refusals = [], []
num_left = 60

def picture(size):
    "Bytes of that length, of their own, that begin as a JPEG."
    return b"\\xff\\xd8\\xff" + os.urandom(size - 3)

def submit(*_):
    global num_left
    try:
        ids.append(client.ocr(picture(50)).id)
        client.status(ids[-1])
    except visionq.ReentrantCall as error:
        refusals.append(str(error))
    num_left -= 1
    if num_left > 0:
        signal.setitimer(signal.ITIMER_REAL, pick.uniform(0.0002, 0.02))

signal.signal(signal.SIGALRM, submit)
# Now and then in the middle of the first call, which imports and connects.
signal.setitimer(signal.ITIMER_REAL, pick.uniform(0.001, 0.3))
while num_left > 0:
    handle = client.ocr(picture(50))
    ids.append(handle.id)
    try:
        handle.wait(0.001)
    except visionq.WaitTimeout:
        pass
print(json.dumps([ids, refusals]))
"""


@pytest.mark.parametrize("seed", range(3))
def test_handler_that_interrupts_calls_of_the_main_thread_submits_or_is_refused(
    urls: LocalUrls, namespace: str, worker: HandWorker, seed: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(seed)],
        env=environment(urls, namespace),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids, refusals = json.loads(done.stdout)
    assert len(ids) + len(refusals) > 60
    assert sorted(worker.message_ids()) == sorted(ids)
    assert all("after the handler has returned" in refusal for refusal in refusals)
