"""Ask a server whether it answers and takes our keys; the door to redis-py and boto3 in here.

Every call is bounded by TIMEOUT_SECONDS and is not retried: the caller decides how long to wait.
"""

from typing import Any

import boto3
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from visionq.local.errors import LocalServerError, NotAnswering, WrongKeys

TIMEOUT_SECONDS = 2.0


def ping_broker(broker_url: str, address: str) -> None:
    """Log in and PING. Raises WrongKeys or NotAnswering."""
    client = redis.Redis.from_url(
        broker_url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    with client:
        try:
            client.ping()
        except redis.AuthenticationError as error:
            raise WrongKeys("valkey", address) from error
        except redis.RedisError as error:
            raise NotAnswering("valkey", address) from error


class StoreProbe:
    """One boto3 client, reused: making it costs far more than a request."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str, region: str) -> None:
        self._endpoint = endpoint
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=Config(
                connect_timeout=TIMEOUT_SECONDS,
                read_timeout=TIMEOUT_SECONDS,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                proxies={},  # else HTTP_PROXY of the environment is used, for loopback too
            ),
        )

    def list_buckets(self) -> set[str]:
        """The names of the buckets. Raises WrongKeys or NotAnswering."""
        try:
            answer = self._client.list_buckets()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                raise WrongKeys("s3", self._endpoint) from error
            raise NotAnswering("s3", self._endpoint) from error
        except BotoCoreError as error:
            raise NotAnswering("s3", self._endpoint) from error
        return {bucket["Name"] for bucket in answer["Buckets"]}

    def ensure_bucket(self, name: str) -> None:
        """Create the bucket if it is not there. Raises as list_buckets, or LocalServerError."""
        if name in self.list_buckets():
            return
        try:
            self._client.create_bucket(Bucket=name)
        except (ClientError, BotoCoreError) as error:
            reason = " ".join(str(error).split())
            raise LocalServerError(f"bucket {name!r} cannot be created: {reason}") from error
