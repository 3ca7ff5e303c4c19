"""python -m bench.serving_client JOB : the client of bench.serving, the same for each server.

It sends streaming requests to /v1/completions, some at a time, and reports when what came back. Lines are only given a
time as they come and are read when all have come, so the client takes little of the cores that the server needs.
"""

import json
import sys
from http.client import HTTPConnection
from threading import Barrier, Thread
from time import perf_counter, process_time

SECONDS = 300  # without a byte, after which a server has failed


def main() -> None:
    """Do the job in the first argument, and print a report as JSON.

    The job has a ``port``, and ``works``: {name: groups of requests}. Those of a group are sent at the same moment, and
    the groups one after the other. The report has for each group

    seconds     from that moment until the last answer is complete
    client      of those, the seconds in which this client computed
    first       of each answer, the seconds until its first token
    tokens      of each answer, as many as the server says it made
    texts       the answers
    """
    job = json.loads(sys.argv[1])
    works = {name: [_do(job["port"], group) for group in groups] for name, groups in job["works"].items()}
    print(json.dumps(works))


def _do(port, group):
    began, lines, failures = [0.0] * len(group), [[] for _ in group], []
    barrier = Barrier(len(group))

    def ask(i, connection):
        try:
            barrier.wait()
            began[i] = perf_counter()
            _stream(connection, group[i], lines[i])
        except Exception as error:
            failures.append(error)

    connections = [HTTPConnection("127.0.0.1", port, timeout=SECONDS) for _ in group]
    for connection in connections:
        connection.connect()
    threads = [Thread(target=ask, args=each) for each in enumerate(connections)]
    computed = process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    computed = process_time() - computed
    if failures:
        raise failures[0]
    answers = [read(*each) for each in zip(began, lines, strict=True)]
    seconds = max(of[-1][0] for of in lines) - min(began)
    return {"seconds": seconds, "client": computed} | {
        name: [answer[name] for answer in answers] for name in ("first", "tokens", "texts")
    }


def _stream(connection, body, lines):
    """Send one request, and append (time, line) for each event of the answer."""
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"the server answered {response.status}: {response.read(1000).decode(errors='replace')}")
    while line := response.readline():
        if line.startswith(b"data:"):
            lines.append((perf_counter(), line))
    connection.close()


def read(began: float, lines: list[tuple[float, bytes]]) -> dict:
    """(time, line) of an answer's events -> its time to the first token, its tokens, its text."""
    first, tokens, text = None, None, ""
    for time, line in lines:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise OSError(f"the server ended a text with {event['error']}")
        for choice in event["choices"]:
            text += choice["text"]
            if first is None and (choice["text"] or choice["finish_reason"]):
                first = time - began
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return {"first": first, "tokens": tokens, "texts": text}


if __name__ == "__main__":
    main()
