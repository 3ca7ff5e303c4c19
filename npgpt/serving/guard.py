"""Middleware that decides who may ask, before anything of the request's body is read.

Host        A page of another site can make its own name point to this computer (DNS rebinding), and its script then
            reads what it likes. The header Host still says that name, so only the server's own names are let in.
Origin      A browser sends it with posts and scripts' requests. It must be this server itself.
Content-Type  of a post is application/json. A form on another site can't send that without being asked first.
Authorization  If there is a token, "Bearer TOKEN", compared in constant time.
"""

import re
from collections.abc import Iterable
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from npgpt.serving.errors import ApiError
from npgpt.serving.settings import as_address, is_loopback

OPEN_PATHS = frozenset({"/", "/health"})  # what GET answers without the token; the page at / asks for it


class Guard:
    """The middleware.

    host            where the server listens
    names           other names that it has
    token           that clients must show; None: none
    """

    def __init__(self, app: ASGIApp, host: str, names: Iterable[str] = (), token: str | None = None):
        self.app, self.token = app, token
        self.names = {"localhost", *(name.lower() for name in (host, *names))}
        self.is_local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def refusal(self, scope: Scope) -> ApiError | None:
        """Why the request is not let in; None: it is."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        for single in (b"host", b"origin", b"authorization", b"content-type"):
            if len(headers.get(single, ())) > 1:
                return ApiError(400, f"the header {single.decode()} is there twice")
        host, origin, authorization, content_type = (
            headers.get(name, [b""])[0].decode("latin-1")
            for name in (b"host", b"origin", b"authorization", b"content-type")
        )
        if not self.is_own_name(host):
            message = "this server has another name than the header Host says; python -m npgpt.serve --allow-host NAME"
            return ApiError(403, message, None, "host_not_allowed")
        if origin and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return ApiError(403, "pages of other sites can't use this server", None, "origin_not_allowed")
        if self.token is not None and not self._shows_token(scope, authorization):
            return ApiError(
                401, "a token is needed, and this is none: send the header Authorization: Bearer TOKEN", None,
                "invalid_api_key", {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if scope["method"] == "POST" and content_type.partition(";")[0].strip().lower() != "application/json":
            return ApiError(415, "the header Content-Type must be application/json", None, "unsupported_media_type")
        return None

    def is_own_name(self, host: str) -> bool:
        """Whether the header Host, a name or address and perhaps a port, is this server's.

        An address is no name, so no other site can make it point here; at a loopback address it must be one too.
        """
        found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::[0-9]*)?", host)
        name = (found[1] or found[2] or "") if found else ""
        if name.lower() in self.names:
            return True
        return is_loopback(name) if self.is_local else as_address(name) is not None

    def _shows_token(self, scope, authorization):
        if scope["method"] in ("GET", "HEAD") and scope["path"] in OPEN_PATHS:
            return True
        scheme, _, shown = authorization.partition(" ")
        return scheme.lower() == "bearer" and compare_digest(shown.strip().encode(), self.token.encode())
