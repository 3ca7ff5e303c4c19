"""python -m npgpt.serve : a server with a playground in the browser, and the OpenAI API."""

import multiprocessing.util
import os
import sys
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

from npgpt.commandline import Parser
from npgpt.errors import UserError
from npgpt.model_flags import open_model
from npgpt.process import run, use_threads
from npgpt.serving.settings import ServeSettings, bind, read_token
from npgpt.shell import name_of
from npgpt.signals import StopRequest, exit_code


class _StopServing(StopRequest):
    """The first signal is noticed by the server, and the second one ends the process at once.

    It raises no exception: that could be lost in uvicorn, and would wait for the engine's thread, whose step takes
    seconds if prompts are long.
    """

    def __init__(self) -> None:
        super().__init__("", say=lambda notice: None)  # the server says what it does

    def _request(self, number, frame):
        if self.requested:
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, b"stopped\n")  # print can't be called again while it is at work
            # Private: frees the semaphore of Numba's threads, which Python 3.14 would warn of.
            multiprocessing.util._run_finalizers()
            os._exit(exit_code(number))
        super()._request(number, frame)


def main() -> int:
    parser = Parser("serve", "Serve a model: a playground in the browser, and the OpenAI API for programs.")
    parser.add_flags(ServeSettings)
    settings = ServeSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)
    read_token(settings)  # before anything takes time
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UserError("the server needs fastapi and uvicorn: pip install 'npgpt[serve]'")
    with bind(settings.host, settings.port) as socket, StopRequest() as stop:
        return _serve(settings, socket, stop)


def _serve(settings, socket, starting) -> int:
    from npgpt.checkpoints import make_model
    from npgpt.generation import Decoder
    from npgpt.generation.attention import attention_weights
    from npgpt.generation.dialogue import warn_of_chat_template
    from npgpt.precompile import compile_for_sampling
    from npgpt.serving.access_log import escaped
    from npgpt.serving.app import make_app
    from npgpt.serving.engine import Engine
    from npgpt.serving.server import Server

    path, checkpoint = open_model(settings)
    settings = replace(settings, name=settings.name or name_of(path))
    tokenizer, config = checkpoint.require_tokenizer(), checkpoint.config
    warn_of_chat_template(checkpoint.chat_template)
    compile_for_sampling(config, config.block_size - 1, 2, settings.weights, settings.cache_dtype, drafted=1)
    model = make_model(checkpoint)
    decoder = Decoder(model, settings.weights, settings.cache_dtype)
    attention_weights(decoder.model, [0], config.n_layer - 1)  # compiles what no text needs, before texts would wait
    host, port = socket.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def announce():
        what = f"{escaped(settings.name)}, {model.num_parameters():,} parameters in {settings.weights}"
        print(
            f"serving {what}, context {config.block_size:,}",
            f"  {address}/    the playground, in a browser",
            f"  {address}/v1  for clients of the OpenAI API",
            "Ctrl-C stops it", sep="\n", file=sys.stderr, flush=True,
        )  # fmt: skip

    with Engine(decoder, tokenizer, settings.rows, settings.queue) as engine, _StopServing() as stop:
        starting.check()
        Server(make_app(engine, settings), engine, settings, lambda: stop.requested, announce).run([socket])
    return 0 if stop.number is None else exit_code(stop.number)


if __name__ == "__main__":
    run(main)
