"""Which port of the loopback interface a server gets."""

import random
import socket

from visionq.local.errors import LocalServerError, PortTaken

HOST = "127.0.0.1"

# Below the ranges from which systems take the local port of outgoing connections (from 32768 on
# Linux). Inside them a client that retries while a server is down can take the server's port, even
# by connecting to itself.
CANDIDATES = range(20_000, 30_000)
NUM_TRIES = 100


def propose_port() -> int:
    """A port for a state folder that has none yet; it may turn out to be taken."""
    return random.choice(CANDIDATES)  # noqa: S311 (not a secret)


def choose_port(asked: int | None, remembered: int, *, avoid: int | None = None) -> int:
    """The asked port, else the remembered one if it is free, else any free one but `avoid`.

    Raises PortTaken if a port was asked for and cannot be listened on.
    """
    if asked is not None:
        refuse_if_taken(asked)
        return asked
    for port in (remembered, *random.sample(CANDIDATES, NUM_TRIES)):
        if port != avoid and is_free(port):
            return port
    raise LocalServerError(f"no free port found between {CANDIDATES[0]} and {CANDIDATES[-1]}")


def refuse_if_taken(port: int) -> None:
    """Raise PortTaken unless a server could listen on the port now."""
    if not 0 < port < 65_536:
        raise PortTaken(port, "it is not between 1 and 65535")
    with socket.socket() as listener:
        # As servers do: connections of an earlier life that linger in TIME_WAIT take no port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise PortTaken(port, error.strerror or str(error)) from error


def is_free(port: int) -> bool:
    try:
        refuse_if_taken(port)
    except PortTaken:
        return False
    return True
