"""The clocks that tests set: Redis goes by one, and so does Python."""

import subprocess
import sys
from pathlib import Path
from time import monotonic, time

import pytest

from tests.faults.clocks import Clock, ClockedRedis, NoClocks

HOUR = 3600


def test_redis_goes_by_its_own_clock(tmp_path: Path) -> None:
    try:
        server = ClockedRedis(tmp_path)
    except NoClocks as error:
        pytest.skip(str(error))
    with server:
        for seconds in (0, HOUR, -HOUR, 0):
            server.set_clock(seconds)
            now, _ = server.client.time()
            assert now == pytest.approx(time() + seconds, abs=2)
        server.client.set("key", "", ex=60)
        server.set_clock(HOUR)
        assert not server.client.exists("key")


def test_python_goes_by_its_own_clock_and_measures_by_the_machine_s(tmp_path: Path) -> None:
    try:
        clock = Clock(tmp_path, HOUR)
    except NoClocks as error:
        pytest.skip(str(error))
    code = (
        "import time, datetime as d;"
        "print(time.time(), d.datetime.now(d.UTC).timestamp(), time.monotonic())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=clock.env, capture_output=True, text=True, check=True
    )
    now, utc, mono = map(float, said.stdout.split())
    assert now == pytest.approx(time() + HOUR, abs=5)
    assert utc == pytest.approx(time() + HOUR, abs=5)
    assert mono == pytest.approx(monotonic(), abs=5)
