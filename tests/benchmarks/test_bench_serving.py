"""bench.serving asks each server for the same, reads what comes back, and refuses other work."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from helpers.running_bench import bench

from bench import serving, serving_client, serving_servers, serving_works
from bench.processes import ProcessFailed


def event(text, ended=None, **more):
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": ended}], **more}).encode()


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 3}}'


def test_the_client_reads_a_stream():
    lines = [
        (10.5, event("")),
        (11.0, event("a")),
        (12.0, event("b", "length")),
        (13.0, USAGE),
        (14.0, b"data: [DONE]"),
    ]
    assert serving_client.read(10.0, lines) == {"first": 1.0, "tokens": 3, "texts": "ab"}


def test_a_token_without_text_that_ends_a_stream_is_its_first():
    assert serving_client.read(1.0, [(3.0, event("", "length"))])["first"] == 2.0


def test_an_error_within_a_stream_is_an_error():
    with pytest.raises(OSError, match="out of memory"):
        serving_client.read(0.0, [(1.0, b'data: {"error": {"message": "out of memory"}}')])


@pytest.fixture
def server():
    """A server -> its port, the bodies that it got. Prompt [0] is refused."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if bodies[-1]["prompt"] == [0] else 200)
            self.end_headers()
            self.wfile.write(event("a") + b"\n\n" + event("b", "length") + b"\n\n" + USAGE + b"\n\ndata: [DONE]\n\n")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made.server_port, bodies
        made.shutdown()
        thread.join()


def test_requests_of_a_group_are_all_sent(server):
    port, bodies = server
    group = [{"prompt": [i]} for i in range(1, 4)]
    report = serving_client._do(port, group)
    assert sorted(bodies, key=lambda body: body["prompt"]) == group
    assert (report["tokens"], report["texts"]) == ([3] * 3, ["ab"] * 3)
    assert all(0 < first <= report["seconds"] for first in report["first"])


def test_a_refused_request_is_an_error(server):
    with pytest.raises(OSError, match="answered 500"):
        serving_client._do(server[0], [{"prompt": [0]}])


def test_no_two_prompts_begin_alike_but_where_they_should():
    works = serving_works.requests(streams=3, prompt=4, tokens=5, long_prompt=16, times=2, extra={"x": 1})
    bodies = {name: [body for group in groups for body in group] for name, groups in works.items()}
    fresh = [tuple(body["prompt"][:4]) for name, of in bodies.items() if name != "shared" for body in of]
    assert len(set(fresh)) == len(fresh)
    assert [len(group) for group in works["many"]] == [3, 3]
    shared = [body["prompt"] for body in bodies["shared"]]
    assert len({tuple(prompt[:14]) for prompt in (*shared, bodies["first"][-1]["prompt"])}) == 1
    assert len({tuple(prompt) for prompt in shared}) == 2
    assert all(body["x"] == 1 and body["logit_bias"] == {"50256": -100} for of in bodies.values() for body in of)


# What is made of the reports


def report(seconds=2.0, tokens=8, text="abcd"):
    group = {"seconds": seconds, "client": 0.1, "first": [0.5], "tokens": [tokens] * 2, "texts": [text] * 2}
    return {name: [group] for name in ("check", "one", "many", "first", "shared")}


ALONE = [{"one": [1.0], "first": [0.3], "check": ["abcd", "abcd"]}]
SETTINGS = serving.Settings(streams=2, tokens=8)


def test_rates_are_of_all_texts():
    assert serving.summarize(SETTINGS, ALONE, ALONE) == {"one": 8.0, "first": 0.3, "void": ""}
    found = serving.summarize(SETTINGS, [report(), report(4.0), report(2.0)], ALONE)
    assert (found["one"], found["many"], found["first"], found["client"]) == (4.0, 8.0, 0.5, 0.05)
    assert (found["equal"], found["void"]) == (1.0, "")


@pytest.mark.parametrize(
    ("told", "void"),
    [({"tokens": 7}, "8 tokens"), ({"tokens": None}, "8 tokens"), ({"text": "aXcd"}, "25%"), ({"text": "abXd"}, "")],
)
def test_other_work_is_void(told, void):
    found = serving.summarize(SETTINGS, [report(**told)], ALONE)["void"]
    assert void in found
    assert bool(found) == bool(void)


def test_bytes_that_are_no_text_are_not_compared():
    assert serving.share_equal("a\ufffdb", "ab\ufffd") == 1
    assert serving.share_equal("ab", "abcd") == 0.5
    assert serving.share_equal("", "abcd") == 0


def test_the_ratio_is_of_tokens_a_second_with_its_range():
    theirs = [{"one": [2.0]}, {"one": [4.0]}]
    assert serving._ratio([report(1.0), report(4.0)], theirs, "one") == "one 1.20 (1.00 to 2.00)"


def test_a_server_that_ends_is_told_with_its_words(tmp_path):
    command = ["sh", "-c", "echo no such flag; exit 3"]
    with (
        pytest.raises(ProcessFailed, match="no such flag"),
        serving_servers.running(lambda port: command, tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize("flag", ["--llama-server=/missing", "--peer=nobody", "--streams=1", "--json=/missing/x.json"])
def test_a_wrong_flag_is_exit_code_2(flag):
    done = bench("serving", *(["--peer=none"] if "json" in flag else []), flag)
    assert done.returncode == 2
    assert 1 <= len(done.stderr.splitlines()) <= 3
