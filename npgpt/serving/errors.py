"""Errors as the OpenAI API reports them: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as RoutingError

UNKNOWN_FIELD, MISSING, WRONG = "unknown_parameter", "missing_required_parameter", "invalid_value"
SHOWN = 200  # characters of what a client sent, in a message


class ApiError(HTTPException):
    """What is told to a client in place of an answer.

    status      HTTP's: 400 a field can't be so, 404 there is no such model, 503 come back later ...
    param       the field that is wrong, "messages[0].content"; None if it is none
    code        for programs: "context_length_exceeded", "model_not_found" ...
    headers     of the response, beside the usual ones: {"Retry-After": "1"}
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON object that the client gets."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status_code, self.headers)


class ErrorDetails(BaseModel):
    """What is wrong."""

    message: str = Field(description="For a person.")
    type: str = Field(description="invalid_request_error or server_error.")
    param: str | None = Field(description="The field that is wrong.")
    code: str | None = Field(description="For a program.")


class ErrorBody(BaseModel):
    """Every response that is no success."""

    error: ErrorDetails


# Of every route, for the description at /openapi.json.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request can't be answered as it is."},
    "5XX": {"model": ErrorBody, "description": "The server can't answer it now."},
}


def add_handlers(app: FastAPI) -> None:
    """Make the app answer in this form, whatever is wrong."""
    app.add_exception_handler(ApiError, _own)
    app.add_exception_handler(RoutingError, _routing)
    app.add_exception_handler(RequestValidationError, _invalid)


def describe_invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's errors, as a client of the OpenAI API expects it."""
    error = errors[0]
    param = field_name(error["loc"])
    if error["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {param}", param, UNKNOWN_FIELD)
    if error["type"] == "missing":
        if not param:
            return ApiError(400, "the request needs a body: a JSON object", None, MISSING)
        return ApiError(400, f"you must provide the field {param}", param, MISSING)
    wanted = error["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("List ")
    wanted = wanted.replace(" after validation", "")
    return ApiError(400, f"{param or 'the body'} {wanted[:1].lower()}{wanted[1:]}", param or None, WRONG)


def field_name(place: Sequence[str | int]) -> str:
    """pydantic's place of an error, as OpenAI writes it.

    >>> field_name(("body", "messages", 0, "content"))
    'messages[0].content'
    """
    name = ""
    for part in place[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name[:SHOWN]


async def _own(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _routing(request: Request, error: Exception) -> JSONResponse:
    """No such path, or another method."""
    assert isinstance(error, RoutingError)
    message = f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path[:SHOWN]}"
    return ApiError(error.status_code, message, headers=error.headers).response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return describe_invalid(error.errors()).response()
