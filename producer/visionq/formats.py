"""Formats of strings, as patterns of ours.

Each is narrower than its standard, so that whatever is written passes every checker: days that the
calendar has, times with their offset and no leap seconds, addresses of plain ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
# Without a hyphen at third and fourth place, which is for names in other scripts.
_LABEL = r"[a-zA-Z](?:[a-zA-Z0-9]{0,30}|[a-zA-Z0-9]{2,15}-[a-zA-Z0-9]{1,15})"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_PATH = r"(?:/[a-zA-Z0-9._~-]{0,100}){0,20}"
_QUERY = r"(?:\?[a-zA-Z0-9._~=&+/-]{0,500})?(?:#[a-zA-Z0-9._~/-]{0,100})?"
_URL = rf"(?:https?|ftp)://{_HOST}(?::[1-9][0-9]{{1,3}})?{_PATH}{_QUERY}"
_URN = r"urn:[a-z][a-z0-9]{1,20}:[a-zA-Z0-9:._-]{1,100}"
_URI = rf"(?:{_URL}|mailto:[a-z0-9.]{{1,40}}@{_HOST}|{_URN})"
_RELATIVE = rf"/?[a-zA-Z0-9_~-][a-zA-Z0-9._~-]{{0,100}}{_PATH}{_QUERY}"
_STEP = r"/[a-zA-Z0-9_-]{1,60}"
_POINTER = r"(?:/(?:[a-zA-Z0-9 ._-]|~[01]){0,60}){0,20}"
_DURATION = (
    r"P(?:[1-9][0-9]{0,3}W|[1-9][0-9]{0,3}Y(?:[1-9][0-9]?M)?(?:[1-9][0-9]?D)?"
    r"|[1-9][0-9]{0,3}M(?:[1-9][0-9]?D)?|[1-9][0-9]{0,3}D"
    r"|(?:[1-9][0-9]{0,3}D)?T(?:[1-9][0-9]{0,3}H(?:[1-9][0-9]?M(?:[1-9][0-9]?S)?)?"
    r"|[1-9][0-9]{0,3}M(?:[1-9][0-9]?S)?|[1-9][0-9]{0,3}S))"
)
_EMAIL = rf"[a-zA-Z0-9]{{1,30}}(?:[._+-][a-zA-Z0-9]{{1,10}}){{0,3}}@{_LABEL}(?:\.{_LABEL}){{1,3}}"

FORMATS: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOST,
    "host-name": _HOST,
    "idn-hostname": _HOST,
    "ipv4": _IPV4,
    "ip-address": _IPV4,
    "ipv6": r"[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}",
    "uri": _URI,
    "iri": _URI,
    "url": _URL,
    "uri-reference": rf"(?:{_URI}|{_RELATIVE})",
    "iri-reference": rf"(?:{_URI}|{_RELATIVE})",
    "uri-template": rf"(?:{_URL}|{_STEP})(?:{_STEP}|/\{{[a-z]{{1,30}}\}}){{0,10}}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"[0-9](?:#|{_POINTER})",
    "regex": r"\^?(?:(?:[a-zA-Z0-9 _/-]|\\[.dws]|\[(?:a-z|A-Z|0-9){1,3}\])[+*?]?){1,100}\$?",
    "byte": r"(?:[A-Za-z0-9+/]{4})*",
}
"""Bodies of patterns. Other names of a format say nothing about validity (JSON Schema, 7.2.3)."""

TIME_OF_DRAFT_3 = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
"""Without an offset."""

OF_NUMBERS: Mapping[str, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
}
"""Formats of OpenAPI's registry, as bounds."""
