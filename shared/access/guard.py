"""What a route asks of who calls it, declared where the route is."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.http import HTTPBase

from shared.access.audit import Asked, AuditTrail, RecordedAnswerError, note
from shared.access.authentication import Authenticator, Principal
from shared.access.tokens import Scope

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="The home's token in secrets/token, or one made by `mnt token create`",
)
_BASIC = HTTPBase(
    scheme="basic",
    auto_error=False,
    scheme_name="password",
    description="The same token as the password, with any name, for a browser to open a page",
)


class Guard:
    """Lets a request pass whose token has a scope.

    Parameters
    ----------
    scope
        That the route needs.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        """Refuse with 401, 403 or 429, or note who it is."""
        await self._authorise(request, credentials, reduces_risk=False)

    async def _authorise(
        self,
        request: Request,
        credentials: HTTPAuthorizationCredentials | None,
        *,
        reduces_risk: bool,
    ) -> Principal:
        authenticator: Authenticator = request.app.state.authenticator
        token = None if credentials is None else credentials.credentials
        principal = await authenticator.authorise(
            token, self.scope, address_of(request), reduces_risk=reduces_risk
        )
        request.state.principal = principal
        return principal


class ChangeGuard(Guard):
    """A guard of a route that changes state: what passes is recorded first.

    Parameters
    ----------
    scope
        That the route needs.
    reduces_risk
        The route can do nothing but reduce risk, so a lock-out does not close it.
    """

    def __init__(self, scope: Scope, *, reduces_risk: bool = False) -> None:
        super().__init__(scope)
        self._reduces_risk = reduces_risk

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        idempotency_key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                description="A repeat with the same key is done once and answered alike; up to 200 "
                "printable characters without spaces",
                json_schema_extra={"minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
            ),
        ] = None,
    ) -> None:
        """Refuse, give the answer of an earlier time, or begin the trail of the request."""
        principal = await self._authorise(request, credentials, reduces_risk=self._reduces_risk)
        if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
            raise HTTPException(
                422,
                f"Idempotency-Key {idempotency_key[:80]!r}: use up to 200 printable characters "
                "without spaces, such as a UUID",
            )
        trail: AuditTrail = request.app.state.audit_trail
        query = f"?{request.url.query}" if request.url.query else ""
        request_id = await trail.begin(
            Asked(
                service=request.app.state.service_name,
                method=request.method,
                path=request.url.path + query,
                operator=principal.label,
                client=address_of(request),
                body=await request.body(),
                key=idempotency_key,
            )
        )
        note(request.state, request_id)


class PageGuard(Guard):
    """A guard of a page: takes the token as a password, too, which a browser asks a person for.

    For routes that change nothing: a browser sends a password by itself, also with a request
    that another site has made up.
    """

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
        password: Annotated[HTTPAuthorizationCredentials | None, Depends(_BASIC)] = None,
    ) -> None:
        """Refuse so that a browser asks for the token, or note who it is."""
        try:
            await self._authorise(
                request, credentials or _of_password(password), reduces_risk=False
            )
        except HTTPException as refused:
            if refused.status_code != 401:
                raise
            raise HTTPException(
                refused.status_code,
                f"{refused.detail}; a browser takes it as the password, with any name",
                headers={"WWW-Authenticate": 'Basic realm="mntrading", charset="UTF-8"'},
            ) from None


def _of_password(
    sent: HTTPAuthorizationCredentials | None,
) -> HTTPAuthorizationCredentials | None:
    """Return the token that was sent as a password; what cannot be read holds none."""
    if sent is None or sent.scheme.lower() != "basic":
        return None
    try:
        _, _, token = base64.b64decode(sent.credentials, validate=True).decode().partition(":")
    except ValueError:
        return None
    return HTTPAuthorizationCredentials(scheme="bearer", credentials=token) if token else None


READ: Any = Depends(Guard("read"))
PAGE: Any = Depends(PageGuard("read"))
CONTROL: Any = Depends(ChangeGuard("control"))
TRADE: Any = Depends(ChangeGuard("trade"))
HALT: Any = Depends(ChangeGuard("control", reduces_risk=True))
FLATTEN: Any = Depends(ChangeGuard("trade", reduces_risk=True))
"""What the `dependencies` of a route name; every route but those of health names one."""


def operator_of(request: Request) -> str:
    """Return under whose name a request is recorded."""
    principal: Principal = request.state.principal
    return principal.label


Operator = Annotated[str, Depends(operator_of)]
"""Parameter of a guarded route: who decides, by the label of the token."""


def address_of(request: Request) -> str:
    """Return the address of a client: that of the connection, whatever headers claim."""
    return "" if request.client is None else request.client.host


def answer_repeats(app: FastAPI) -> None:
    """Answer the repeat of a request with what the first one was answered."""

    async def repeat(_: Request, answered: Exception) -> Response:
        if not isinstance(answered, RecordedAnswerError):
            raise answered
        return Response(
            answered.answer,
            answered.status,
            headers={"Idempotency-Replayed": "true"},
            media_type="application/json",
        )

    app.add_exception_handler(RecordedAnswerError, repeat)
