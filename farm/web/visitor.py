"""For whom a page is drawn: who has signed in, and the token that every change asked for by that page carries."""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape

_FORM = re.compile(r"<form\b[^>]*\bmethod=\"post\"[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class SignedIn:
    name: str
    role: str
    form_token: str


# Of the request that is being answered; unset where nobody has an account, or comes with a bearer token.
SIGNED_IN: ContextVar[SignedIn | None] = ContextVar("signed_in", default=None)


def signed_in() -> SignedIn | None:
    return SIGNED_IN.get()


def with_form_token(html: str, script: str) -> str:
    """Every form that posts, and what the script fetches, shows that it comes from this page.

    Done to the finished page, so that no template can forget it.
    """
    visitor = signed_in()
    if visitor is None:
        return html
    token = escape(visitor.form_token)
    html = _FORM.sub(lambda form: f'{form[0]}<input type="hidden" name="csrf" value="{token}">', html)
    head = f'<meta name="csrf-token" content="{token}"><script src="{script}"></script>'
    return html.replace("</title>", f"</title>{head}", 1)
