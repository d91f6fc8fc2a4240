"""The gate before the server: which requests pass, from whom, how large, and what is written about each of them.

A plain ASGI application around another one. What is not in `RULES` is refused, so that an endpoint of a later MONAI
Label is closed until somebody has looked at it.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from bundle.monailabel.asked import check_query
from bundle.monailabel.audit import AuditLog
from prsmed.errors import RequestError

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

USER, ANNOTATOR, ADMIN = "monailabel-user", "monailabel-annotator", "monailabel-admin"
SMALL_BYTES = 256 * 1024
ANY_KEY = ("*",)
_SESSION = r"/session/[0-9a-f-]{32,36}"


@dataclass(frozen=True)
class Caller:
    """Who a token belongs to."""

    name: str
    roles: tuple[str, ...]


class RefusedError(Exception):
    """A request that does not pass; `status` is the HTTP status."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Rule:
    """One kind of request that passes.

    Attributes:
        role: what the caller needs; None where nobody has to be known.
        query: the keys that its URL may have; ANY_KEY where they go to another server as they are.
        is_upload: whether a file may come with it.
    """

    action: str
    methods: tuple[str, ...]
    path: str
    role: str | None = USER
    query: frozenset[str] = field(default_factory=frozenset)
    is_upload: bool = False


def _rule(action: str, methods: str, path: str, *query: str, role: str | None = USER, is_upload: bool = False) -> Rule:
    return Rule(action, tuple(methods.split()), path, role, frozenset(query), is_upload)


RULES = (
    _rule("auth", "GET", "/auth/?", role=None),
    _rule("login", "POST", "/auth/token", role=None),
    _rule("auth", "GET", "/auth/token/valid"),
    _rule("info", "GET", "/info/?"),
    _rule("ask", "POST", r"/infer/\w+", "image", "session_id", "output"),
    _rule("batch", "POST", r"/batch/infer/\w+", "images", "run_sync", role=ADMIN),
    _rule("batch", "GET", "/batch/infer/?", "all", "check_if_running"),
    _rule("batch stop", "DELETE", "/batch/infer/?", role=ADMIN),
    _rule("next sample", "POST", r"/activelearning/(?:random|first)"),
    _rule("upload", "PUT", "/session/?", "uncompress", "expiry", "client_id", is_upload=True),
    _rule("session", "GET DELETE", _SESSION, "update_ts"),
    _rule("list", "GET", "/datastore/?", "output"),
    _rule("image", "GET", "/datastore/image", "image", "check_sum"),
    _rule("image", "HEAD", "/datastore/image", "image"),
    _rule("image", "GET", "/datastore/image/info", "image"),
    _rule("save label", "PUT", "/datastore/label", "image", "tag", role=ANNOTATOR, is_upload=True),
    _rule("label", "GET HEAD", "/datastore/label", "label", "image", "tag"),
    _rule("label", "GET", "/datastore/label/info", "label", "tag"),
    _rule("train", "POST", r"/train/\w*", "run_sync", "enqueue", role=ADMIN),
    _rule("train", "GET", "/train/?", "all", "check_if_running"),
    _rule("train stop", "DELETE", "/train/?", role=ADMIN),
    _rule("candidates", "GET", "/prsmed/candidates"),
    _rule("accept", "POST", "/prsmed/accept", "run", role=ADMIN),
)
_PARTS = r"(?:/\w+(?:\.\w+)*)*/?"  # of a path, none of which climbs
OHIF_RULES = (
    _rule("viewer", "GET HEAD", r"/ohif(?:/[\w-]+(?:\.[\w-]+)*)*/?", *ANY_KEY),
    _rule("dicom", "GET", "/proxy/dicom/(?:qido|wado)/studies" + _PARTS, *ANY_KEY),
)
"""For a DICOMweb service only: the viewer's own files, and what it reads of the service."""


class Gate:
    """Lets through what its rules name, and writes every request, passed or refused, to the audit log.

    Args:
        inner: the application behind it.
        upload_bytes: the largest body with a file.
        caller_of: who a bearer token belongs to, raising `RefusedError`; None where nobody has to log in: then only
            this machine is served, and no web page but the server's own.
        rules: what passes.
    """

    def __init__(
        self,
        inner: App,
        *,
        audit: AuditLog,
        upload_bytes: int,
        caller_of: Callable[[str], Awaitable[Caller]] | None = None,
        rules: Sequence[Rule] = RULES,
    ):
        self.inner = inner
        self.audit = audit
        self.upload_bytes = upload_bytes
        self.caller_of = caller_of
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["type"] == "http":
            await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        client = scope.get("client") or ("",)
        entry: dict[str, Any] = {"action": "unknown", "from": client[0], "who": ""}
        scope.setdefault("state", {})["audit"] = entry
        reply = _Reply(send)
        try:
            if self.caller_of is None:
                _require_own_page(scope)
            rule = self._rule(scope)
            entry["action"] = rule.action
            query = _query(scope, rule)
            entry["image"] = self.audit.hashed(query.get("image") or query.get("label", ""))
            entry["who"] = await self._who(scope, rule)
            body = _Body(receive, self.upload_bytes if rule.is_upload else SMALL_BYTES, scope)
            reply.body = body
            await self.inner(scope, body, reply)
        except RefusedError as refusal:
            entry["refused"] = str(refusal)
            await reply.refuse(refusal.status, str(refusal))
        except Exception as error:  # its words may quote an id, a question or a tag: they stay here
            last = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s failed: %s in %s:%s", entry["action"], type(error).__name__, last.name, last.lineno)
            await reply.refuse(500, f"the server failed ({type(error).__name__}); its log says where")
        finally:
            self.audit.write(**entry, status=reply.status, seconds=round(time.monotonic() - started, 3))

    def _rule(self, scope: Scope) -> Rule:
        matching = [rule for rule in self.rules if re.fullmatch(rule.path, scope["path"])]
        for rule in matching:
            if scope["method"] in rule.methods:
                return rule
        raise RefusedError(405 if matching else 404, "this server does not offer that")

    async def _who(self, scope: Scope, rule: Rule) -> str:
        if self.caller_of is None or rule.role is None:
            return ""
        kind, _, token = _header(scope, b"authorization").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise RefusedError(401, "log in first: the request carries no token")
        caller = await self.caller_of(token)
        if rule.role not in caller.roles:
            raise RefusedError(403, f"needs the role {rule.role}")
        return caller.name


class _Body:
    """Counts what comes in; beyond the limit nothing more is read."""

    def __init__(self, receive: Receive, limit_bytes: int, scope: Scope):
        self.receive = receive
        self.limit_bytes = limit_bytes
        self.seen_bytes = 0
        stated = _header(scope, b"content-length")
        if stated and not (stated.isdecimal() and int(stated) <= limit_bytes):
            raise RefusedError(413, self.reason)

    @property
    def reason(self) -> str:
        return f"too large: at most {self.limit_bytes} bytes"

    @property
    def is_too_large(self) -> bool:
        return self.seen_bytes > self.limit_bytes

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen_bytes += len(message.get("body", b""))
        if self.is_too_large:
            raise RefusedError(413, self.reason)
        return message


class _Reply:
    """Passes a reply on and remembers its status; one that a too large body provoked becomes 413."""

    def __init__(self, send: Send):
        self.send = send
        self.body: _Body | None = None
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if self.body and self.body.is_too_large:  # frameworks turn the error from reading into one of their own
            raise RefusedError(413, self.body.reason)
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)

    async def refuse(self, status: int, reason: str) -> None:
        if self.status:  # the reply is under way, or the framework has made its own
            return
        self.status = status
        body = json.dumps({"detail": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _query(scope: Scope, rule: Rule) -> dict[str, str]:
    pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise RefusedError(400, "a key of the URL's query is given twice")
    if rule.query == {*ANY_KEY}:
        return query
    for name, value in pairs:
        if name not in rule.query:
            raise RefusedError(400, f"the URL's query may hold {', '.join(sorted(rule.query)) or 'nothing'}")
        try:
            check_query(name, value)
        except RequestError as error:
            raise RefusedError(400, str(error)) from error
    return query


def _require_own_page(scope: Scope) -> None:
    """Refuse what another web page makes a browser on this machine send, also under a name that it points here."""
    host, origin, site = (_header(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
    if host and not is_loopback(_name_of(host)):
        raise RefusedError(403, "without a login this server answers to localhost only")
    if (origin and origin.partition("://")[2] != host) or site not in ("", "same-origin", "none"):
        raise RefusedError(403, "web pages of another origin may not use this server")


def _name_of(host: str) -> str:
    """The Host header without its port and without the brackets of IPv6."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host; of a name other than localhost nothing is known."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name), "")
