"""The playground: a page at /, and what it asks the server for.

    GET  /                       the page, one file that needs no network
    POST /playground/generate    a prompt -> its tokens, each new one as it is made, why the text ends; as a stream
    POST /playground/attention   a prompt and a layer -> attention's weights (H, T, T)
    POST /playground/tokens      a prompt -> its tokens

A text is continued by its ids. If it were split anew, its tokens could become others.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Header
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.generation.attention import attention_weights
from npgpt.generation.token_lines import visible
from npgpt.html_page import make_page
from npgpt.serving.answers import Finish
from npgpt.serving.body import StrictRoute
from npgpt.serving.completions import STREAM, finish
from npgpt.serving.engine import Closed
from npgpt.serving.errors import RESPONSES, WRONG, ApiError
from npgpt.serving.requests import Made, PromptRead, Request
from npgpt.serving.schema import AttentionRequest, PlaygroundRequest, PromptRequest
from npgpt.serving.served import Served
from npgpt.serving.texts import EventStream, Texts, busy, stopping, while_connected

ALTERNATIVES = 10  # that are told of each token
ATTENTION_TOKENS = 256  # a picture of more can't be read; GPT-2's twelve heads are 3 MB
ATTENTION_WAITING = 4  # pictures that may wait: texts wait for them
LENGTH = 100  # tokens, unless the page is told another number
SCRIPTS = (
    "dom.js", "server.js", "settings.js", "characters.js", "tokens.js", "alternatives.js", "heat.js", "attention.js",
    "texts.js", "play.js",
)  # fmt: skip
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_WEIGHTS: dict[int | str, dict[str, Any]] = {200: {"content": _BYTES}}


class PageToken(BaseModel):
    """A token. ``bytes``: hexadecimal digits, perhaps a part of a character; ``shown``: as ``visible`` shows them."""

    id: int
    bytes: str
    shown: str


class Alternative(PageToken):
    """A token that could stand in a place, and its log p there."""

    logprob: float


class PlacedToken(PageToken):
    """A token of a text. Of what nothing stands before, or was not asked for, the log p is null."""

    logprob: float | None = None
    likeliest: list[Alternative] = []


class PageTokens(BaseModel):
    """A prompt's tokens."""

    tokens: list[PageToken]


class PlaygroundChunk(BaseModel):
    """What is known now: the prompt and how many tokens will be made at most, a new token, or why the text ends.

    The prompt comes at once, and with its probabilities (``score_prompt``) again when it has been read.
    """

    prompt: list[PlacedToken] | None = None
    max_tokens: int | None = None
    token: PlacedToken | None = None
    ended: Finish | None = None


def router(served: Served) -> APIRouter:
    """The routes."""

    def refuse_other_pages(npgpt_started: str | None = Header(None, include_in_schema=False)) -> None:
        """A page that another server has made may know tokens by other ids."""
        if npgpt_started not in (None, str(served.created)):
            message = "this page is from before the server was started: load it again"
            raise ApiError(409, message, None, "started_anew")

    routes = APIRouter(route_class=StrictRoute, dependencies=[Depends(refuse_other_pages)])
    page = make_playground(served)
    pictures = asyncio.Semaphore(ATTENTION_WAITING)

    @routes.head("/", include_in_schema=False)
    @routes.get("/", response_class=HTMLResponse, responses=RESPONSES)
    async def playground() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page, headers=page_headers(page))

    @routes.post("/playground/generate", response_class=Response, responses={**RESPONSES, **STREAM})
    async def generate(asked: PlaygroundRequest) -> Response:
        """Continue a text: a stream of PlaygroundChunk."""
        work = _Work(served, asked)
        texts = served.submit([work.request])
        return EventStream(work.chunks(texts), texts.cancel)

    @routes.post("/playground/attention", response_class=Response, responses={**RESPONSES, **_WEIGHTS})
    async def attention(asked: AttentionRequest, request: HttpRequest) -> Response:
        """float32 (H, T, T), the lowest byte of each first: what position i takes of j in each head of the layer."""
        config = served.engine.config
        if asked.layer >= config.n_layer:
            raise ApiError(400, f"layer must be from 0 to {config.n_layer - 1}", "layer", WRONG)
        ids = served.encode(asked.prompt, "prompt")
        if len(ids) > ATTENTION_TOKENS:
            raise ApiError(400, f"prompt can have {ATTENTION_TOKENS} tokens at most", "prompt", WRONG)
        if pictures.locked():
            raise busy("too many pictures are waiting", 1)
        async with pictures:
            weights = await _weights(served, ids, asked.layer, request)
        return Response(weights.astype("<f4").tobytes(), media_type="application/octet-stream")

    @routes.post("/playground/tokens", responses=RESPONSES)
    async def tokens(asked: PromptRequest) -> PageTokens:
        """The tokens of a prompt."""
        return PageTokens(
            tokens=[PageToken(**_fields(served, id)) for id in served.encode(asked.prompt, "prompt").tolist()]
        )

    return routes


def make_playground(served: Served) -> str:
    """The page of a model."""
    config, tokenizer = served.engine.config, served.engine.tokenizer
    data = {
        "model": served.name,
        "started": served.created,
        "context": config.block_size,
        "layers": config.n_layer,
        "heads": config.n_head,
        "end": tokenizer.end_of_text,
        "attention": min(ATTENTION_TOKENS, config.block_size),
        "defaults": {
            "temperature": TEMPERATURE,
            "top_k": TOP_K,
            "top_p": 1 if TOP_P is None else TOP_P,
            "max_tokens": min(LENGTH, config.block_size),
        },
    }
    return make_page(files("npgpt.serving") / "page", served.name, data, SCRIPTS)


def page_headers(page: str) -> dict[str, str]:
    """Headers by which a browser runs nothing but the page's own style and script, and asks nobody but this server."""
    style, script = (
        base64.b64encode(hashlib.sha256(re.findall(f"(?s)<{tag}>(.*?)</{tag}>", page)[-1].encode()).digest()).decode()
        for tag in ("style", "script")
    )
    policy = {
        "default-src": "'none'",
        "style-src": f"'sha256-{style}'",
        "script-src": f"'sha256-{script}'",
        "connect-src": "'self'",
        "img-src": "data:",  # the icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


class _Work:
    """What one request asks for. Raises ApiError."""

    def __init__(self, served: Served, asked: PlaygroundRequest):
        self.served = served
        ids = served.encode(asked.prompt, "prompt")
        new = served.room(ids, None, default=asked.max_tokens)
        self.request = Request(
            ids=ids,
            max_new_tokens=new,
            sampling=served.sampling(asked, new),
            seed=asked.seed,
            stop_ids=served.engine.tokenizer.stop_ids,
            logprobs=ALTERNATIVES,
            prompt_logprobs=ALTERNATIVES if asked.score_prompt else None,
        )

    async def chunks(self, texts: Texts) -> AsyncIterator[PlaygroundChunk]:
        """The stream."""
        ids = self.request.ids.tolist()
        prompt = [self._placed(id, None, ()) for id in ids]
        yield PlaygroundChunk(prompt=prompt, max_tokens=self.request.max_new_tokens)
        async for event in texts.events():
            if isinstance(event, Made):
                if (token := event.token) is not None:
                    yield PlaygroundChunk(token=self._placed(token.id, token.logprob, token.likeliest))
                if event.ended is not None:
                    yield PlaygroundChunk(ended=finish(event.ended))
            elif isinstance(event, PromptRead) and event.logprobs:
                found = zip(ids, event.logprobs, strict=True)
                scored = [self._placed(id, *((its.logprob, its.top) if its else (None, ()))) for id, its in found]
                yield PlaygroundChunk(prompt=scored)

    def _placed(self, id: int, logprob: float | None, likeliest: Sequence[tuple[int, float]]) -> PlacedToken:
        others = [
            Alternative(**_fields(self.served, other), logprob=its)
            for other, its in likeliest
            if other < self.served.ids  # a padded vocabulary's other ids have no text
        ]
        return PlacedToken(**_fields(self.served, id), logprob=logprob, likeliest=others)


def _fields(served: Served, id: int) -> dict[str, Any]:
    """A PageToken's."""
    data = served.engine.tokenizer.token_bytes(id)
    return {"id": id, "bytes": data.hex(), "shown": visible(data)}


async def _weights(served: Served, ids: np.ndarray, layer: int, request: HttpRequest) -> np.ndarray:
    """Attention's weights, computed by the engine's thread. If the client leaves before, they are not computed."""
    try:
        computing = served.engine.run(lambda: attention_weights(served.engine.decoder.model, ids, layer))
        return await while_connected(request, _result(computing), computing.cancel)
    except (Closed, asyncio.CancelledError):
        raise stopping() from None


async def _result(future):
    return await asyncio.wrap_future(future)
