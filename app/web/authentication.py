"""Decides who sends each request, before its body is read."""

from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.authenticating import Keys
from app.access.caller import LOCAL, NOBODY, Identity, RequestOrigin, current_origin
from app.access.keys import PREFIX, PresentedKey, read_key
from app.access.proxies import TrustedProxies
from app.database.connection import AWAY
from app.errors import ServiceError, Unauthenticated
from app.web.browser_sessions import PAGE_ASSETS, SIGN_IN, TOKEN_HEADER, cookie_key, to_sign_in
from app.web.ending_streams import EndingStream
from app.web.error_responses import answer, of_storage

# What everyone may see: whether the service is well, and its description.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", SIGN_IN})
OPEN_FOLDERS = ("/docs/assets/", PAGE_ASSETS)
BEARER = "bearer "
PARAM = "authorization"


class Authentication:
    """ASGI middleware: sets the identity of a request in its scope, or answers 401.

    `needs_key`: whether a request without a key is refused. If not, it is made by the local caller, who may do
    everything, and a token that has not the form of a key counts as none: OpenAI's clients always send one.
    """

    def __init__(self, app: ASGIApp, keys: Keys, proxies: TrustedProxies, *, needs_key: bool) -> None:
        self._app, self._keys, self._proxies, self._needs_key = app, keys, proxies, needs_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        peer = (scope.get("client") or (None,))[0]
        try:
            presented = self._presented(headers) or cookie_key(
                headers.get("cookie", ""), scope["method"], scope["path"], headers.get(TOKEN_HEADER, "")
            )
            scope["presented_key"] = presented
            scope["identity"] = identity = await self._identify(scope["path"], headers, peer, presented)
        except Unauthenticated as error:
            refusal = answer(error, scope.get("request_id"), scope["path"])
            await (to_sign_in(scope["path"], headers) or refusal)(scope, receive, send)
            return
        except ServiceError as error:
            await answer(error, scope.get("request_id"), scope["path"])(scope, receive, send)
            return
        except AWAY as error:
            found = of_storage(error, scope["app"].state.database)
            await answer(found, scope.get("request_id"), scope["path"])(scope, receive, send)
            return
        address = self._proxies.client(headers, peer)
        token = current_origin.set(RequestOrigin(identity.name, address, scope.get("request_id")))
        if presented is not None:
            ending = EndingStream(receive, send, partial(self._keys.check, presented))
            receive, send = ending.receive, ending.send
        try:
            await self._app(scope, receive, send)
        finally:
            current_origin.reset(token)

    def _presented(self, headers: dict[str, str]) -> PresentedKey | None:
        """Raises Unauthenticated for what has not the form of a key."""
        sent = headers.get(PARAM, "")
        token = sent[len(BEARER) :].strip() if sent.lower().startswith(BEARER) else ""
        if not token or not (token.startswith(PREFIX) or self._needs_key):
            return None
        presented = read_key(token)
        if presented is None:
            raise Unauthenticated(f"{PARAM}: this is no key of this service", param=PARAM)
        return presented

    async def _identify(
        self, path: str, headers: dict[str, str], peer: str | None, presented: PresentedKey | None
    ) -> Identity:
        if presented is not None:
            return await self._keys.identity(presented)
        person = self._proxies.identity(headers) if self._proxies.trusts(peer) else None
        if person is not None:
            await self._keys.count(person)
            return person
        if not self._needs_key:
            return LOCAL
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return NOBODY
        message = f"this service asks for a key: send it as `{PARAM.title()}: Bearer {PREFIX}…`"
        raise Unauthenticated(message, param=PARAM, code="missing_api_key")
