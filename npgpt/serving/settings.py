"""The flags of ``python -m npgpt.serve``, and who may ask the server. Nothing heavy is imported."""

import errno
import os
import re
import socket
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from npgpt.commandline import FlagType, count, flag, number, pathname
from npgpt.errors import ConfigError
from npgpt.generation_settings import ModelSettings
from npgpt.model_flags import MODEL

ADDRESS, LIMITS = "address", "limits"
TOKEN_VARIABLE = "NPGPT_SERVE_TOKEN"
MIN_TOKEN, MAX_TOKEN = 16, 4096  # characters

_seconds = number("SECONDS", 0, 3600, open_low=True)


def _host_name(text):
    """A name as a browser sends it: one with a scheme, a port or a path would never be met."""
    if not re.fullmatch(r"[\w.-]+", text, re.ASCII) and as_address(text) is None:
        raise ArgumentTypeError(f"{text!r} is not a host's name alone, such as gpt.example.org")
    return text


def _listening(text):
    """An IPv6 address may stand in brackets, as in a URL."""
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return inside if isinstance(as_address(inside), IPv6Address) else pathname(text)


@dataclass(frozen=True)
class ServeSettings(ModelSettings):
    """What ``python -m npgpt.serve`` can be told."""

    name: str | None = flag(None, pathname, "what clients call the model (default: its file or folder)", MODEL,
                            metavar="NAME")  # fmt: skip
    host: str = flag(
        "127.0.0.1",
        FlagType("ADDRESS", _listening),
        "address to listen at; one that others can reach needs a token",
        ADDRESS,
    )
    port: int = flag(8000, number("N", 0, 65535, whole=True), "0 chooses a free one", ADDRESS)
    allow_host: Sequence[str] = flag(
        (), FlagType("NAME", _host_name), "a host name that clients may use; can be given several times", ADDRESS,
        repeatable=True,
    )  # fmt: skip
    token: str | None = flag(
        None, str, f"clients must show it; others see it in the list of processes (or set {TOKEN_VARIABLE})", ADDRESS,
        metavar="TEXT",
    )  # fmt: skip
    token_file: str | None = flag(None, pathname, "a file whose first line is the token", ADDRESS)

    rows: int = flag(8, number("N", 1, 256, whole=True), "texts that are made together", LIMITS)
    queue: int = flag(256, number("N", 1, 10_000, whole=True), "texts that may wait", LIMITS)
    connections: int = flag(512, count(), "clients at a time", LIMITS)
    client_seconds: float = flag(
        30.0, _seconds, "a client has so long for a request, and to read what it is sent", LIMITS
    )
    stop_seconds: float = flag(5.0, _seconds, "texts have so long to end when the server stops", LIMITS)
    body_bytes: int = flag(10**6, count(), "the largest request, in bytes", LIMITS)


def read_token(settings: ServeSettings) -> str | None:
    """The token that clients must show; None: they need none. Raises ConfigError.

    Without one the server may listen only at a loopback address, where nobody else can reach it.
    """
    if settings.token is not None and settings.token_file is not None:
        raise ConfigError("--token and --token-file both say what the token is: give one")
    source, token = "--token", settings.token
    if settings.token_file is not None:
        source, token = f"--token-file {settings.token_file}", _first_line(settings.token_file)
    elif token is None and TOKEN_VARIABLE in os.environ:
        source, token = TOKEN_VARIABLE, os.environ[TOKEN_VARIABLE]
    if token is None:
        if not is_loopback(settings.host):
            raise ConfigError(
                f"--host {settings.host}: others can reach this address, so clients need a token.\n"
                f"Give --token-file FILE, or set {TOKEN_VARIABLE}; or leave out --host."
            )
        return None
    if not (MIN_TOKEN <= len(token) <= MAX_TOKEN and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"{source}: a token has {MIN_TOKEN} to {MAX_TOKEN:,} ASCII characters and no spaces.\n"
            'One is made by: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return token


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address, which doesn't listen yet. Raises ConfigError, which says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host[:100]}: this computer has no such address") from None
    try:
        if os.name == "posix":  # elsewhere this would let two servers have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(min(socket.SOMAXCONN, 1024))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"--host {host}: this computer has no such address") from None
        advice = "Give another port with --port N, or end the program that has this one."
        if error.errno == errno.EACCES:
            advice = "Give a port from 1024 on with --port N: those below are the system's."
        raise ConfigError(f"can't listen at {host} port {port}: {error.strerror}.\n{advice}") from None
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach the address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    address = as_address(host)
    return address is not None and address.is_loopback


def as_address(host: str) -> IPv4Address | IPv6Address | None:
    """The IPv4 or IPv6 address that is written so; None: it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _first_line(path):
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows' editors begin a file with a mark
            return file.readline(MAX_TOKEN + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: can't be read ({error})") from None
