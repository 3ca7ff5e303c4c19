"""python -m npgpt.chat : talk to a trained model in the terminal."""

import signal
import sys
from contextlib import nullcontext, suppress

from npgpt.chatting.settings import ChatSettings
from npgpt.commandline import Parser
from npgpt.errors import CheckpointError, UserError
from npgpt.model_flags import open_model
from npgpt.process import run, use_threads
from npgpt.signals import StopRequest, exit_code


def main() -> int:
    parser = Parser("chat", "Talk to a trained model. Messages are lines, typed or from a pipe; /help shows more.")
    parser.add_flags(ChatSettings)
    settings = ChatSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)

    from npgpt.chatting.console import LEAVE, open_console
    from npgpt.chatting.talk import Talk
    from npgpt.checkpoints import make_model
    from npgpt.generation import Decoder
    from npgpt.generation.dialogue import warn_of_chat_template
    from npgpt.precompile import compile_for_sampling

    path, checkpoint = open_model(settings)
    tokenizer, config = checkpoint.require_tokenizer(), checkpoint.config
    warn_of_chat_template(checkpoint.chat_template)
    # The first prompt may be long; later ones add a few tokens to what the cache holds, like drafted ones.
    compile_for_sampling(config, config.block_size - 1, 2, settings.weights, settings.cache_dtype, drafted=1)
    talk = Talk(Decoder(make_model(checkpoint), settings.weights, settings.cache_dtype), tokenizer, settings)
    console = open_console()
    if console.interactive:
        _say(f"{path}: it sees {config.block_size:,} tokens at once. {LEAVE}")
    try:
        _converse(talk, console)
    except FloatingPointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return 0


def _converse(talk, console):
    """Answer messages and obey commands until there are no more. A person's mistakes and Ctrl-C end nothing."""
    from npgpt.chatting.commands import obey

    while (line := console.read()) is not None:
        try:
            if line.startswith("/"):
                told = obey(line.rstrip(), talk)
                if told is None:
                    return
                _say(told)
            elif line.strip():
                _answer(line.strip(), talk, console)
        except UserError as error:
            if not console.interactive:
                raise UserError(f"{console.place}{error}") from error
            _say(str(error))
        except KeyboardInterrupt as stop:
            ctrl_c = exit_code(signal.SIGINT)
            if not console.interactive or getattr(stop, "exit_code", ctrl_c) != ctrl_c:
                raise
            _say("(stopped)")


def _answer(question, talk, console):
    all_fitted = talk.left_out == 0
    pieces = talk.answer(question)
    with StopRequest() as stop:
        console.begin()
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
                stop.check()
        except OSError:
            stop.check()  # a closed terminal sends SIGHUP, and can't be written to
            raise
        finally:
            pieces.close()
            with suppress(OSError) if stop.requested else nullcontext():
                print(talk.held_back, end="", flush=True)
                console.end()
    if console.interactive and talk.ended == "length":
        longer = f"/set max-new-tokens {2 * talk.limit} allows more"
        fits = talk.limit == talk.settings.max_new_tokens
        _say(f"(cut after {talk.limit:,} tokens: {longer if fits else 'the context has no room for more'})")
    if console.interactive and all_fitted and talk.left_out:
        _say("(the oldest messages don't fit into the context any more, and are left out)")


def _say(text):
    """Tell the user something that is no answer."""
    if text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
