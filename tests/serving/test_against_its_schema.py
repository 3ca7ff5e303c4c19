"""Requests that schemathesis draws from the server's own description, /openapi.json."""

import pytest
from helpers.serving import SETTINGS, tiny_engine
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("fastapi", reason="the server needs the extra serve")
from schemathesis import GenerationMode, checks  # noqa: E402

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def rejected(context, response, case):
    """Drawn to be wrong by the schema."""
    assert 400 <= response.status_code < 500, case.body


def test_every_answer_is_as_described():
    from npgpt.serving.app import make_app

    with tiny_engine() as engine:
        app = make_app(engine, SETTINGS)
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) >= 6
        for operation in operations:
            _check(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), CHECKS)
            if operation.method == "post":  # the others have nothing that could be wrong
                _check(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), [*CHECKS, rejected])


def _check(cases, checks):
    @given(case=cases)
    @settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def is_as_described(case):
        case.headers = {**(case.headers or {}), "Host": "localhost"}
        case.call_and_validate(checks=checks)

    is_as_described()
