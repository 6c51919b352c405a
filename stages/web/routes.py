"""What the pages have in common: the files that they are made of, and requests with JSON.

Everything but a page and its files is a POST with JSON, which a page of another site can't send unnoticed.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from rlhf import InputError
from rlhf.rows import Row
from stages.web.store import name_of

PAGE = Path(__file__).parent / "page"
SHARED = ("server.js", "elements.js", "style.css", "icon.svg")  # files of every page
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Refused(Exception):
    """A request that the page does not send."""


def page_routes(template: str, own_files: Iterable[str], **values: str) -> list[Route]:
    """Routes of a page and its files, the only files that are served. `values` are what its template shows."""
    templates = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template(template).render(**values)
    files = {name: (PAGE / name).read_bytes() for name in (*SHARED, *own_files)}

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    async def show_file(request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        return Response(files[name], media_type=MEDIA_TYPES[Path(name).suffix])

    return [Route("/", show_page), *(Route(f"/{name}", show_file) for name in files)]


def application(routes: Iterable[Route], handlers: Mapping[str, Callable[[Row], Awaitable[Any]]]) -> Starlette:
    """An application with these routes, and one for each handler of JSON."""
    app = Starlette(routes=[*routes, *(json_route(name, handler) for name, handler in handlers.items())])
    app.router.redirect_slashes = False  # such a redirect would lack the token
    return app


def json_route(name: str, handler: Callable[[Row], Awaitable[Any]]) -> Route:
    """A route whose handler gets an object, and returns one or a response.

    A request that is malformed or can't be carried out is answered with 400 and the reason, a full disk with 507.
    """

    async def endpoint(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            if not isinstance(body, dict):
                raise Refused("the body is an object")
            answer = await handler(body)
            return answer if isinstance(answer, Response) else JSONResponse(answer)
        except (Refused, InputError) as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, RecursionError):
            return JSONResponse({"error": "the body is not JSON"}, 400)
        except OSError as error:
            return JSONResponse({"error": f"not saved: {error.strerror}"}, 507)

    return Route(f"/{name}", endpoint, methods=["POST"])


def person_of(body: Row) -> str:
    """The name of the person who sends a request. Raises Refused if it is none."""
    if (name := name_of(body.get("rater"))) is None:
        raise Refused("a name has 1 to 40 letters")
    return name
