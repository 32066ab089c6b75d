"""Who may call our routes on AUTOMATIC1111's web server, which guards its own routes only."""

from __future__ import annotations

import base64
import binascii
import secrets
from urllib.parse import urlsplit

from fastapi import HTTPException, Request


def guard(request: Request) -> None:
    """Lets through whom --api-auth or the page's login knows, or everybody where neither is asked for.

    A page of another site is refused what changes anything, login or not: it could press our buttons
    through the browser of somebody who is let in. Raises HTTPException 401 or 403.
    """
    from modules import shared

    _refuse_other_sites(request, shared.cmd_opts.cors_allow_origins or "")
    accounts = [account for account in (shared.cmd_opts.api_auth or "").split(",") if account]
    logins = getattr(request.app, "auth", None)
    if not accounts and logins is None:
        return
    if _has_password(request, accounts) or (logins is not None and _has_cookie(request)):
        return
    asks = {"WWW-Authenticate": "Basic"} if accounts else None
    raise HTTPException(401, "Name and password of --api-auth or a login on the page are needed.", asks)


def _refuse_other_sites(request: Request, allowed: str) -> None:
    origin = request.headers.get("origin")
    if request.method in ("GET", "HEAD") or origin is None or origin in allowed.split(","):
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:  # it names no site at all
        site = ""
    if site != request.headers.get("host"):
        raise HTTPException(403, f"A page of {origin[:100]} may not do this.")


def _has_password(request: Request, accounts: list[str]) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        account = base64.b64decode(given, validate=True)
    except binascii.Error:
        return False
    return any(secrets.compare_digest(account, known.strip().encode()) for known in accounts)


def _has_cookie(request: Request) -> bool:
    """As gradio's own pages are guarded."""
    token = request.cookies.get("access-token") or request.cookies.get("access-token-unsecure")
    return token is not None and request.app.tokens.get(token) is not None
