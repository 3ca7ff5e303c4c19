"""What clients may ask: the fields of the OpenAI API's requests and of the playground's, each with its type, bounds and
default.

A field that is null has its default. One that this server can't honour is refused, unless it says what is done anyway;
so is an unknown one, as at OpenAI. Fields that change nothing in the answer (``user``, ``metadata``) are accepted.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

MAX_TEXTS = 128  # prompts times n, of one request
MAX_LOGPROBS = 20
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
MAX_MESSAGES = 1000
MAX_FIELDS = 100  # of an object
MAX_SEED = 2**63 - 1


def _only(*values: Any) -> Any:
    """The type of a field that can only be null or one of these values: this server can do nothing else."""

    def check(value):
        if value is None or any(value == allowed and type(value) is type(allowed) for allowed in values):
            return value
        raise ValueError("asks for what this server can't do: leave it out")

    return Annotated[Any, BeforeValidator(check), WithJsonSchema({"enum": [None, *values]})]


def _is_id(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _prompts(value: Any) -> list[str | list[int]]:
    """A text, texts, ids, or lists of ids -> a list of texts or lists of ids"""
    several = value if isinstance(value, list) and not (value and _is_id(value[0])) else [value]
    if not 1 <= len(several) <= MAX_TEXTS:
        raise ValueError(f"must have 1 to {MAX_TEXTS} texts, not {len(several):,}")
    if all(isinstance(prompt, str) for prompt in several):
        return several
    if all(isinstance(prompt, list) and prompt and all(map(_is_id, prompt)) for prompt in several):
        return several
    raise ValueError("must be a text, a list of texts, a list of ids, or a list of lists of ids, none of them empty")


def _prompt(value: Any) -> str | list[int]:
    """A text, or ids"""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_id, value))):
        return value
    raise ValueError("must be a text, or a list of ids that is not empty")


def _stops(value: Any) -> tuple[str, ...]:
    """A text, or texts -> texts"""
    several = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(several, list) or len(several) > MAX_STOPS:
        raise ValueError(f"must be a text, or a list of at most {MAX_STOPS}")
    if not all(isinstance(stop, str) and 1 <= len(stop) <= MAX_STOP_LENGTH for stop in several):
        raise ValueError(f"must be texts of 1 to {MAX_STOP_LENGTH:,} characters")
    return tuple(several)


def _biases(value: Any) -> dict[int, float]:
    """{"50256": -100} -> {50256: -100.0}"""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 1000:
        raise ValueError("must be an object with at most 1,000 ids")
    for id, bias in value.items():
        if not (id.isascii() and id.isdigit() and len(id) < 10):
            raise ValueError('must have ids of tokens as its keys, such as {"50256": -100}')
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError("must have numbers from -100 to 100 as its values")
    return {int(id): float(bias) for id, bias in value.items()}


def _content(value: Any) -> str:
    """A text, or a list of parts {"type": "text", "text": ...} -> the text, parts on lines of their own"""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text, or a list of parts of the type text")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('can only have parts such as {"type": "text", "text": "Hello"}')
        if unknown := part.keys() - {"type", "text"}:
            raise ValueError(f"has a part with the field {min(unknown)[:100]!r}, which is unknown")
    return "\n".join(part["text"] for part in value)


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TEXTS}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_NULL = {"type": "null"}
_BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": 1000,
}


def _any_of(*forms: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(forms)})


_Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),
    _any_of(_TEXT, _TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MAX_TEXTS}),
]
_Prompt = Annotated[str | list[int], PlainValidator(_prompt), _any_of(_TEXT, _IDS)]
_Stops = Annotated[
    tuple[str, ...],
    PlainValidator(_stops),
    _any_of(_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}, _NULL),
]
_Biases = Annotated[dict[int, float], PlainValidator(_biases), _any_of(_BIASES, _NULL)]
_Content = Annotated[str, PlainValidator(_content), _any_of(_TEXT, {"type": "array", "items": _PART, "minItems": 1})]
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Ignored = Annotated[Any, AfterValidator(lambda value: None)]


class _Strict(BaseModel):
    """No field is converted: "5" is no number. Numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, values: Any) -> Any:
        """Of each unknown field pydantic makes an error: a second's work for a hundred thousand."""
        if isinstance(values, dict) and len(values) > MAX_FIELDS:
            raise ValueError(f"has more than {MAX_FIELDS} fields")
        return values


class StreamOptions(_Strict):
    """What a stream has besides the text."""

    include_usage: bool | None = Field(None, description="A last chunk with the number of tokens. Default: false.")
    include_obfuscation: bool | None = Field(None, description="Changes nothing here.")


class Sampled(_Strict):
    """How tokens are chosen."""

    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits; 0 is greedy. Default: 1.")
    top_p: float | None = Field(None, gt=0, le=1, description="Only the likeliest tokens of this sum. Default: all.")
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1, description="Only the k likeliest; 0, -1: all, the default.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Only tokens p times as likely as the likeliest, or more."
    )
    typical_p: float | None = Field(None, gt=0, le=1, description="Only tokens as surprising as usual, of this sum.")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=1000, description="Above 1: tokens of the prompt and the text become less likely. Default: 1."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted from the logit of each token that was made. Default: 0."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted from a token's logit for each time that it was made. Default: 0."
    )
    logit_bias: _Biases = Field({}, description="{id of a token: what is added to its logit}. Default: none.")
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1, description="The text can't end before. Default: 0.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="The same text each time; the n-th has seed + n.")


class TextsRequest(Sampled):
    """What requests for texts and for answers have in common."""

    model: str | None = Field(None, description="Its name. Default: the one that is served.")
    n: int | None = Field(None, ge=1, le=MAX_TEXTS, description="Texts for each prompt. Default: 1.")
    stop: _Stops = Field((), description="Texts that end the answer, and are no part of it. Default: none.")
    stream: bool | None = Field(None, description="Send the text as it is made. Default: false.")
    stream_options: StreamOptions | None = None

    user: _Ignored = None
    metadata: _Ignored = None
    safety_identifier: _Ignored = None
    prompt_cache_key: _Ignored = None
    prompt_cache_options: _Ignored = None
    prompt_cache_retention: _Ignored = None
    service_tier: _only("auto", "default") = None  # type: ignore[valid-type]
    store: _only(False) = None  # type: ignore[valid-type]


class CompletionRequest(TextsRequest):
    """POST /v1/completions: continue texts."""

    prompt: _Prompts = Field(description="A text, texts, ids of tokens, or lists of ids.")
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1, description="Tokens of each text. Default: 16.")
    echo: bool | None = Field(None, description="Begin with the prompt. Default: false.")
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="So many of the likeliest tokens' log p.")
    best_of: int | None = Field(None, ge=1, le=MAX_TEXTS, description="Can only be n.")
    suffix: _only("") = None  # type: ignore[valid-type]


class MessageRequest(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="Who says it.")
    content: _Content = Field(description="What they say: a text, or a list of parts of the type text.")
    name: _only() = None  # type: ignore[valid-type]
    refusal: _only() = None  # type: ignore[valid-type]
    audio: _only() = None  # type: ignore[valid-type]
    annotations: _only([]) = None  # type: ignore[valid-type]
    function_call: _only() = None  # type: ignore[valid-type]
    tool_calls: _only([]) = None  # type: ignore[valid-type]


class ChatRequest(TextsRequest):
    """POST /v1/chat/completions: answer the last message."""

    messages: list[MessageRequest] = Field(min_length=1, max_length=MAX_MESSAGES, description="The conversation.")
    max_tokens: _Count | None = Field(None, description="Tokens of the answer. Default: as many as the context has.")
    max_completion_tokens: _Count | None = Field(None, description="The same.")
    logprobs: bool | None = Field(None, description="Each token's log p. Default: false.")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="Of so many likeliest tokens, too.")

    response_format: _only({"type": "text"}) = None  # type: ignore[valid-type]
    modalities: _only(["text"]) = None  # type: ignore[valid-type]
    tools: _only([]) = None  # type: ignore[valid-type]
    tool_choice: _only("none", "auto") = None  # type: ignore[valid-type]
    parallel_tool_calls: _only(True, False) = None  # type: ignore[valid-type]
    functions: _only([]) = None  # type: ignore[valid-type]
    function_call: _only("none", "auto") = None  # type: ignore[valid-type]
    audio: _only() = None  # type: ignore[valid-type]
    prediction: _only() = None  # type: ignore[valid-type]
    moderation: _only() = None  # type: ignore[valid-type]
    reasoning_effort: _only("none") = None  # type: ignore[valid-type]
    verbosity: _only("medium") = None  # type: ignore[valid-type]
    web_search_options: _only() = None  # type: ignore[valid-type]


class SimpleChatRequest(_Strict):
    """POST /chat: one message, without a conversation before it."""

    message: str = Field(min_length=1, description="What the user says.")


class SimpleChatAnswer(BaseModel):
    """What the model says to it."""

    response: str


class PromptRequest(_Strict):
    """POST /playground/tokens: a prompt as the model sees it."""

    prompt: _Prompt = Field(description="A text, or ids of tokens.")


class AttentionRequest(PromptRequest):
    """POST /playground/attention: what the tokens of a text look at."""

    layer: int = Field(ge=0, description="From 0.")


class PlaygroundRequest(Sampled, PromptRequest):
    """POST /playground/generate: continue one text, and tell all of its tokens."""

    max_tokens: int = Field(ge=0, le=2**31 - 1, description="As many as there is room for, if that is less.")
    score_prompt: bool | None = Field(None, description="Tell the prompt's probabilities, too. Default: false.")
