"""Who a bearer token belongs to: MONAI Label's OpenID Connect check, with the algorithm it must be signed with."""

from __future__ import annotations

import jwt
from anyio import to_thread
from monailabel.config import settings
from monailabel.endpoints.user import auth

from bundle.monailabel.gate import Caller, RefusedError


def read_token(token: str) -> auth.User:
    """The user of a token that the realm signed; stock MONAI Label names no algorithm, which PyJWT 2 refuses.

    Raises:
        jwt.InvalidTokenError: forged, expired, of another realm, or without an expiry.
    """
    key = auth.get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI)
    claims = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        issuer=settings.MONAI_LABEL_AUTH_REALM_URI,
        options={"require": ["exp", "iss"], "verify_aud": False},
    )
    roles = claims
    for part in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(part, {}) if isinstance(roles, dict) else {}
    names = [role for role in roles if isinstance(role, str)] if isinstance(roles, list) else []
    return auth.User(username=str(claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME, "")), roles=names)


async def caller_of(token: str) -> Caller:
    """The gate's check.

    Raises:
        RefusedError: the token is not valid.
    """
    try:
        user = await to_thread.run_sync(read_token, token)
    except jwt.InvalidTokenError as error:
        raise RefusedError(401, f"the token is not valid ({type(error).__name__}); log in again") from error
    return Caller(user.username, tuple(user.roles))


def mend_stock_check() -> None:
    """Let MONAI Label's own endpoints read tokens in the same way."""
    auth.from_token = read_token
