"""A machine whose clock is further off than S3 allows: the store refuses it, and it is told why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.clocks import Clock, NoClocks
from visionq import StoreAddress
from visionq.errors import StorageUnavailable, WrongClock

PROGRAM = """
import sys
from visionq import StoreAddress
from visionq.errors import StorageError
from visionq.objects import ObjectStore

names = ("bucket", "endpoint_url", "region", "access_key", "secret_key")
store = ObjectStore(StoreAddress(**dict(zip(names, sys.argv[1:]))))
for act in (
    store.check_bucket,
    lambda: store.put("inputs/a", b"a"),
    lambda: store.put_new("inputs/a", b"a"),
    lambda: store.get("inputs/a"),
):
    try:
        act()
        print("done")
    except StorageError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("seconds", [3600, -3600, 600, -600])
def test_store_that_refuses_a_wrong_clock_is_quoted_so(
    address: StoreAddress, tmp_path: Path, seconds: int
) -> None:
    try:
        clock = Clock(tmp_path, seconds)
    except NoClocks as error:
        pytest.skip(str(error))
    words = [address.bucket, address.endpoint_url, address.region]
    words += [address.access_key, address.secret_key]
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    path = {"PYTHONPATH": ":".join(sys.path)}
    told = subprocess.run(
        command, env={**clock.env, **path}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if abs(seconds) < 900:
        assert told == ["done"] * 4
    else:
        assert told == [f"WrongClock {WrongClock()}"] * 4


def test_it_passes_when_the_clock_is_set() -> None:
    """So tasks wait for it, as for a store that is away."""
    assert issubclass(WrongClock, StorageUnavailable)
    assert "set it by NTP" in str(WrongClock())
