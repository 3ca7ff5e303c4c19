import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.serving import parse, read_all, request

from serving.test_completions import alone

pytest.importorskip("fastapi", reason="the server needs the extra serve")
CLIENTS = 200


def test_two_hundred_clients_at_once_each_get_their_own_text(server):
    connections = [server.connect() for _ in range(CLIENTS)]

    def ask(i):
        body = {"prompt": f"Client {i % 7} says", "max_tokens": 6 + i % 5, "seed": i}
        with connections[i] as connection:
            connection.sendall(request("POST", "/v1/completions", body, Connection="close"))
            status, _, answer = parse(read_all(connection))
        return status, json.loads(answer)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    assert {status for status, _ in answers} == {200}
    for i, (_, answer) in enumerate(answers):
        assert answer["choices"][0]["text"] == alone(server, f"Client {i % 7} says", i, 6 + i % 5)[0]
