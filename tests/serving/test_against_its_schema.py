"""Requests that schemathesis draws from the server's own description, /openapi.json."""

import pytest
from helpers.serving import SETTINGS, tiny_engine
from hypothesis import HealthCheck, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("fastapi", reason="the server needs the extra serve")
from schemathesis import checks  # noqa: E402

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def described():
    from npgpt.serving.app import make_app

    with tiny_engine() as engine:
        yield schemathesis.openapi.from_asgi("/openapi.json", make_app(engine, SETTINGS), headers={"Host": "localhost"})


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case):
    case.headers = {**(case.headers or {}), "Host": "localhost"}
    case.call_and_validate(checks=CHECKS)
