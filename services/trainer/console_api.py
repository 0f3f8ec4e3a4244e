"""The console: a page to start cycles from and to look at what they made.

A browser opens the page with a token as the password. The page holds no data and does not learn
that token: what it shows it fetches from guarded routes with the one that a person pastes in,
which stays in the page's memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel

from services.trainer.cycles import Cycles
from shared.access.guard import PAGE, READ
from shared.rest import refusals
from shared.settings import Settings

_PAGE = Path(__file__).with_name("console.html")
_SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)
_ANY_FILE = {"content": {"application/octet-stream": {"example": "the bytes of the file"}}}


class Links(BaseModel):
    """Where else to look.

    Attributes
    ----------
    pages
        Addresses by name.
    mlflow
        Address of MLflow's pages, where there are any.
    store
        Folder or bucket that artefacts are uploaded to, where one is set.
    """

    pages: dict[str, str]
    mlflow: str | None
    store: str | None


def add_console_routes(router: APIRouter, settings: Settings) -> None:
    """Add the page and what only it asks for to the routes of the trainer."""
    cycles = Cycles(settings.home)
    page = _PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": content_policy(page),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    @router.get(
        "/console",
        dependencies=[PAGE],
        summary="A page to start cycles from and to look at what they made",
        response_class=HTMLResponse,
        responses={200: {"content": {"text/html": {"example": "<!doctype html>"}}}},
    )
    async def console() -> HTMLResponse:
        """Return the page, which holds no data and asks for a token."""
        return HTMLResponse(page, headers=headers)

    @router.get("/console/links", dependencies=[READ], summary="Where else to look")
    async def links() -> Links:
        """Return the addresses of the other pages of the fleet, as the settings name them."""
        pages = {name: str(url) for name, url in settings.console.links.items()}
        served = settings.mlflow_url or ""
        has_pages = served.startswith(("http://", "https://"))
        return Links(
            pages=pages,
            mlflow=pages.get("mlflow") or (served if has_pages else None),
            store=settings.artefacts.store or None,
        )

    @router.get(
        "/artifacts/{cycle_id}/{path:path}",
        dependencies=[READ],
        summary="A file of a finished cycle",
        response_class=FileResponse,
        responses={200: _ANY_FILE, **refusals(404, 409)},
    )
    async def artifact(
        cycle_id: Annotated[str, PathParameter(max_length=100)],
        path: Annotated[str, PathParameter(max_length=500)],
    ) -> FileResponse:
        """Return a file that `/artifacts` lists; no other can be named."""
        found = await asyncio.to_thread(cycles.file, cycle_id, path)
        if found is None:
            raise HTTPException(404, f"no file {path} of cycle {cycle_id}: GET /artifacts has all")
        # Whatever it holds is saved, never shown as a page of this origin.
        return FileResponse(
            found,
            media_type="application/octet-stream",
            filename=found.name,
            headers={"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"},
        )


def content_policy(page: str) -> str:
    """Return the policy under which only the page's own script runs.

    Parameters
    ----------
    page
        HTML with one script, which is allowed by its hash.

    Notes
    -----
    Styles may be inline: a frame that shows a report inherits the policy, and a report's style
    is its own. Scripts of a frame do not run, for it is a sandbox.
    """
    [script] = _SCRIPT.findall(page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
