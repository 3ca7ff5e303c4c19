"""The web application: all routes, and what stands before them."""

from time import time

from fastapi import FastAPI

from npgpt.serving import chat, completions, models, playground
from npgpt.serving.access_log import AccessLog
from npgpt.serving.body import LimitedBody
from npgpt.serving.engine import Engine
from npgpt.serving.errors import add_handlers
from npgpt.serving.guard import Guard
from npgpt.serving.served import Served
from npgpt.serving.settings import ServeSettings, read_token


def make_app(engine: Engine, settings: ServeSettings) -> FastAPI:
    """Make the application. Raises ConfigError if the token can't be one, or must be there and isn't.

    Its description for programs is at /openapi.json. FastAPI's own pages of it load scripts from elsewhere, so they
    are left out.
    """
    app = FastAPI(title="npgpt", docs_url=None, redoc_url=None)
    served = Served(engine, settings.name or "npgpt", int(time()))
    for routes in (completions, chat, models, playground):
        app.include_router(routes.router(served))
    add_handlers(app)
    # The last one that is added stands before the others.
    app.add_middleware(LimitedBody, limit=settings.body_bytes)
    app.add_middleware(Guard, host=settings.host, names=settings.allow_host, token=read_token(settings))
    app.add_middleware(AccessLog)
    return app
