"""One server with a tiny model for the tests that only ask it something."""

import pytest


@pytest.fixture(scope="package")
def server():
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    pytest.importorskip("uvicorn", reason="the server needs the extra serve")
    from helpers.serving import running, tiny_engine

    with running(tiny_engine()) as running_server:
        yield running_server


@pytest.fixture(scope="package")
def ask(server):
    """ask(path, field=value ...) posts JSON -> status, the JSON that comes back"""
    import json

    def post(path="/v1/completions", body=None, **fields):
        status, _, answer = server.post(path, fields if body is None else body)
        return status, json.loads(answer)

    return post
