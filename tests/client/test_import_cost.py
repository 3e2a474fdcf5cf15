"""What a web process pays for `import visionq` and its first submit, in modules."""

import json
import subprocess
import sys

import pytest

from tests.support.workers import environment
from visionq.local import LocalUrls

SCRIPT = """
import json
import sys

import visionq

def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})

after_import = loaded()
client = visionq.Client(sys.argv[1], namespace=sys.argv[2])
handle = client.ocr("inputs/" + "ab" * 32, "Title?", labels={"order": "17"})
after_submit = loaded()
assert handle.status().state == "PENDING"
client.close()
print(json.dumps([after_import, after_submit, loaded()]))
"""

HEAVY = ["torch", "transformers", "PIL", "numpy", "boto3", "botocore", "pydantic", "imagesize"]
MOMENTS = ["after import", "after the first submit", "after the first status"]


@pytest.fixture(scope="module")
def loaded(urls: LocalUrls) -> dict[str, list[str]]:
    """The top-level modules in a fresh process, at three moments."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, urls.broker_url, "import-cost"],
        env=environment(urls, "import-cost"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(zip(MOMENTS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("module", HEAVY)
def test_a_process_that_submits_a_key_does_not_load(
    loaded: dict[str, list[str]], module: str, moment: str
) -> None:
    assert module not in loaded[moment]


def test_the_measurement_sees_what_is_loaded(loaded: dict[str, list[str]]) -> None:
    assert {"visionq", "celery", "redis", "kombu"} <= set(loaded["after the first submit"])
