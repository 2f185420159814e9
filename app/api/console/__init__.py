"""The operators' console at `/`: a sign-in with an API key, and one live page.

sessions.py   signed cookies, attempts to sign in
pages.py      HTML, CSS and JavaScript, and the headers that go with them
live.py       what the page shows, as one JSON document
routes.py     the routes; `router` is all that the API takes from here
"""

from app.api.console.routes import router

__all__ = ["router"]
