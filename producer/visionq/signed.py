"""GET and PUT of whole objects, signed by botocore and sent without the rest of boto3.

A half of the door that `objects` is. boto3 spends most of a small request on parameter checks,
endpoint rules, event handlers and a user agent, and asks `Expect: 100-continue` before each PUT:
0.8 ms of Python for what takes 0.4 ms here, and in a worker every bit of Python keeps the thread
waiting that launches the device's work. Only the plain success is handled; whatever else the store
answers, `objects` asks boto3 the same again, which knows every other answer.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from visionq.bodies import BadBody, BodyChanged, NotOfAStore, TooLarge, Upload, body_of, read_body

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from botocore.session import Session

OK = 200


class SignedRequests:
    """Thread-safe. Network errors are botocore's, after one more try."""

    def __init__(
        self,
        session: Session,
        credentials: Credentials,
        *,
        endpoint_url: str,
        region: str,
        is_path_style: bool,
        connect_seconds: float,
        read_seconds: float,
        max_connections: int,
    ) -> None:
        self._credentials = credentials
        self._endpoint = urlsplit(endpoint_url)
        self._region = region
        self._is_path_style = is_path_style
        self._read_seconds = read_seconds
        self._http = URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(endpoint_url),
            timeout=(connect_seconds, read_seconds),  # type: ignore[arg-type]  # as botocore does
            max_pool_connections=max_connections,
            # Without it head and body wait for each other's acknowledgement, 40 ms.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # type: ignore[list-item]
        )

    def put(
        self, bucket: str, key: str, content: bytes, content_type: str, *, is_new: bool = False
    ) -> bool:
        """Whether the store has taken the object. `is_new`: it shall not if there is one."""
        headers = {"Content-Type": content_type} | ({"If-None-Match": "*"} if is_new else {})
        body = body_of(content, self._read_seconds)
        reply = self._send("PUT", bucket, key, body, headers)
        return bool(reply.status_code == OK and "ETag" in reply.headers)

    def get(
        self, bucket: str, key: str, max_bytes: int | None, *, is_checked: bool = False
    ) -> bytes | TooLarge | None:
        """The object; None when the store gives another answer, or stops in the middle of it.

        `is_checked`: also when the bytes are not those of its ETag.
        """
        reply = self._send("GET", bucket, key, None, {})
        length = reply.headers.get("Content-Length", "")
        if reply.status_code != OK or not length.isdecimal():
            reply.raw.close()
            return None
        if max_bytes is not None and int(length) > max_bytes:
            reply.raw.close()  # the connection is of no more use: the body is still coming
            return TooLarge(int(length))
        try:
            NotOfAStore.raise_without_etag(reply.headers)
            content = read_body(reply.raw, int(length), seconds=self._read_seconds)
            if is_checked:
                BodyChanged.raise_if_contradicted(content, reply.headers)
        except BadBody:
            reply.raw.close()  # whatever is left of it is still coming
            return None
        return content

    def close(self) -> None:
        self._http.close()

    def _send(
        self,
        method: str,
        bucket: str,
        key: str,
        body: bytes | Upload | None,
        headers: dict[str, str],
    ) -> Any:
        request = AWSRequest(
            method=method,
            url=self._url(bucket, key),
            data=body,
            headers=headers,
            stream_output=body is None,
        )
        signer = S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region)
        signer.add_auth(request)
        prepared = request.prepare()
        try:
            return self._http.send(prepared)
        except HTTPClientError:  # a connection that the store has closed; both may be repeated
            prepared.reset_stream()
            return self._http.send(prepared)

    def _url(self, bucket: str, key: str) -> str:
        scheme, host, base = self._endpoint.scheme, self._endpoint.netloc, self._endpoint.path
        path = quote(key, safe="-._~/")
        # A certificate of *.s3.amazonaws.com does not cover a bucket with dots in its name.
        if self._is_path_style or "." in bucket:
            return f"{scheme}://{host}{base.rstrip('/')}/{bucket}/{path}"
        return f"{scheme}://{bucket}.{host}/{path}"
