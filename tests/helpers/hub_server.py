"""A Hugging Face hub on this machine: as much of its protocol as downloading takes, and all that can go wrong in it.

``HEAD`` and ``GET`` of ``/OWNER/NAME/resolve/REVISION/FILE``. Small files are answered at once, with git's hash as
their ETag; large ones by a redirect to another server, as the hub's storage is, with their sha256 in X-Linked-Etag.
"""

import hashlib
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx")


class Hub:
    """``with Hub() as hub``: hub.repositories["owner/name"] = {file: bytes}; then ask hub.url. What to change:

    refuse   {repository: (status, X-Error-Code or None)}
    send     the bytes of a large file -> those that are sent in their place
    stop_at  where in a large file sending stops, once for each element
    then     "cut" the connection, or "wait" for ``released`` and send the rest
    ranges   whether a part may be asked for
    commit   the commit of main
    """

    def __init__(self):
        self.repositories, self.refuse = {}, {}
        self.send = lambda data: data
        self.stop_at, self.then = [], "cut"
        self.ranges, self.commit = True, COMMIT
        self.requests = []  # (method, path, headers), in the order in which they came
        self.connections, self.gone = [], False
        self.waiting = threading.Event()  # set when a large file's sending has stopped, to wait
        self.released = threading.Event()

    def __enter__(self):
        self._servers = [_serve(self, _Handler), _serve(self, _StorageHandler)]
        ports = [server.server_address[1] for server in self._servers]
        self.url, self.storage_url = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"  # two hosts
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Stop the server, so that connections are refused."""
        self.gone = True
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for connection in self.connections:  # those that are kept for a further request
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._servers = []

    def asked(self, method="GET") -> list[str]:
        """The names of the files that were asked for."""
        return [path.rsplit("/", 1)[1] for m, path, _ in self.requests if m == method and "/resolve/" in path]

    def large_requests(self) -> list[str | None]:
        """The Range of every request for a large file's bytes."""
        return [headers.get("Range") for _, path, headers in self.requests if path.startswith("/storage/")]


def _serve(hub, handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Base(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.hub.connections.append(self.connection)

    def do_HEAD(self):
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        self.close_connection |= self.hub.gone
        if not self.hub.gone:
            with suppress(ConnectionError):  # the client has gone
                self.answer()

    do_GET = do_HEAD

    def log_message(self, *arguments):
        pass

    def head(self, status, length, **headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class _Handler(_Base):
    def answer(self):
        owner, name, resolve, revision, file = (self.path.split("?")[0].split("/", 5)[1:] + [""] * 5)[:5]
        repository = f"{owner}/{name}"
        if repository in self.hub.refuse:
            status, code = self.hub.refuse[repository]
            return self.head(status, 0, X_Error_Code=code)
        if repository not in self.hub.repositories or resolve != "resolve":
            return self.head(401, 0, X_Error_Message="Invalid username or password.")
        if revision not in ("main", self.hub.commit):
            return self.head(404, 0, X_Error_Code="RevisionNotFound")
        commit = {"X_Repo_Commit": self.hub.commit}
        data = self.hub.repositories[repository].get(file)
        if data is None:
            return self.head(404, 0, X_Error_Code="EntryNotFound", **commit)
        if file.endswith(LARGE):
            sha256 = hashlib.sha256(data).hexdigest()
            linked = {"X_Linked_Etag": f'"{sha256}"', "X_Linked_Size": str(len(data))}
            return self.head(302, 0, Location=f"{self.hub.storage_url}/storage/{sha256}", **linked, **commit)
        etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.head(200, len(data), ETag=f'"{etag}"', **commit)
        if self.command == "GET":
            self.wfile.write(data)
        return None


class _StorageHandler(_Base):
    def answer(self):
        hub = self.hub
        sha256 = self.path.rsplit("/", 1)[1]
        files = [data for files in hub.repositories.values() for data in files.values()]
        data = hub.send(next(data for data in files if hashlib.sha256(data).hexdigest() == sha256))
        begin, asked = 0, self.headers.get("Range")
        if asked and hub.ranges:
            begin = int(asked.removeprefix("bytes=").split("-")[0])
            if begin >= len(data):
                return self.head(416, 0)
            self.head(206, len(data) - begin, Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.head(200, len(data))
        if self.command == "HEAD":
            return None
        if hub.stop_at:
            end = max(begin, hub.stop_at.pop(0))
            self.wfile.write(data[begin:end])
            begin = end
            if hub.then == "wait":
                hub.waiting.set()
                hub.released.wait(60)
            if hub.then == "cut" or hub.gone:
                self.close_connection = True
                return None
        self.wfile.write(data[begin:])
        return None
