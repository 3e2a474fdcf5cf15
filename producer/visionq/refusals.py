"""Which errors of Redis no waiting changes: an operator has to change a user, a password, a server.

    the user may not       NOPERM; of a command within a script, "ACL failure in script"
    the login is refused   NOAUTH, WRONGPASS, and what Redis says of a password where none is set
    no such command        one that this server does not know, or lets nobody use

Everything else may pass: a Redis that is full, loads its data, is a replica for now, or is away.
"""

from __future__ import annotations

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
    ResponseError,
)

from visionq.errors import BrokerDenied, BrokerUnavailable

_FOR_GOOD = (
    NoPermissionError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
)
_SAID = (
    "noperm",
    "acl failure in script",
    "the user executing the script can't",  # Redis before 7
    "unknown command",
    "unknown redis command",
    "unknown subcommand",
    "redis command is not allowed",
    "noauth",
    "wrongpass",
)
"""What stands, in small letters, in an error that redis-py has no class for."""
_BEFORE_WHAT_WAS_SAID = "caused error: "
"""redis-py's, of an error in a pipeline. Before it stands the command, with anybody's data."""

ADVICE = (
    "this does not pass by itself: correct broker.url, or what its user may do (SECURITY.md has the"
    " rules, `visionq-worker check` tries them)"
)
"""What an operator has to do."""


def is_for_good(error: BaseException) -> bool:
    """Whether Redis refuses by its access rules, or does not know the command at all."""
    if isinstance(error, _FOR_GOOD):
        return True
    if not isinstance(error, ResponseError):
        return False
    said = str(error).rpartition(_BEFORE_WHAT_WAS_SAID)[2].lower()
    return any(words in said for words in _SAID)


def broker_error(cause: BaseException, message: str) -> BrokerUnavailable:
    """Ours for what a library raised, perhaps of another error: `BrokerDenied` with `ADVICE`."""
    causes = (cause, cause.__cause__, cause.__context__)
    if any(is_for_good(error) for error in causes if error is not None):
        return BrokerDenied(f"{message.rstrip('.')}; {ADVICE}")
    return BrokerUnavailable(message)
