"""Models by name: "gpt2", or "owner/name" on the Hugging Face hub, from the hub's cache on this machine or downloaded.

    models--OWNER--NAME/refs/main                 the commit that was the newest when it was downloaded
    models--OWNER--NAME/snapshots/COMMIT/FILE     a link to
    models--OWNER--NAME/blobs/ETAG                its content; a large file's etag is its sha256

That is how huggingface_hub lays the cache out ("Understand caching" in its documentation). Looking there takes neither
a package nor a network. Downloading is left to huggingface_hub, but for what it (2.4) does not do: resume, and compare
a large file's sha256. So large files are put into blobs/ here, with its ``http_get``.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

from npgpt.checkpoints.huggingface.config import config_from_huggingface
from npgpt.checkpoints.huggingface.read import WEIGHTS, shards
from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.checkpoints.shared.strict_json import read_json_object
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE
from npgpt.errors import CheckpointError

# The names that GPT-2 had before the hub's models had owners, and has in papers.
FULL_NAMES = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
FULL_NAMES["distilgpt2"] = "distilbert/distilgpt2"
# Small files that are taken along if they are there: npgpt's tokenizer, and what other tools will ask the cache for.
SMALL = (
    OUR_TOKENIZER_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)

# Without any of these a folder of weights has no tokenizer of its own.
VOCABULARIES = (OUR_TOKENIZER_FILE, "tokenizer.json", "vocab.json")

_FILES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".index", ".json")
_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}\w)?"
_NAME = re.compile(f"{_PART}/{_PART}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_BY_HAND = "put its config.json and model.safetensors into a folder, and name the folder"


def find(name: str | Path) -> Path:
    """The local folder with a model's files, for a name that is no path; downloaded if it isn't in the cache.

    A model in the cache is taken as it is: whether the hub has a newer one is not asked. huggingface_hub's environment
    variables (HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE ...) hold here too. Raises CheckpointError.
    """
    typed = name.as_posix() if isinstance(name, Path) else name
    name = FULL_NAMES.get(typed, typed)
    is_name = _NAME.fullmatch(name) and ".." not in name and "--" not in name
    if not is_name or os.path.isdir(name.split("/")[0]) or name.endswith(_FILES):  # or a path with a slip in it
        raise CheckpointError(
            f"{typed}: there is no such file or folder. Name a run, a folder with config.json and model.safetensors, "
            f"or a model on the Hugging Face hub, such as gpt2 or distilbert/distilgpt2"
        )
    cache = _cache()
    weights_alone: Path | None = None
    for known in (name, *(short for short, full in FULL_NAMES.items() if full == name)):
        snapshot = _cached(_storage(cache, known))
        if snapshot is not None:
            if name in FULL_NAMES.values() or _is_tokenizer_known(snapshot):
                return snapshot
            weights_alone = snapshot  # another tool got them, and the hub may have a tokenizer beside them
    try:
        offline = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        if os.environ.get(offline, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise _NotFound(f"{offline} is set: unset it to download the model")
        return _download(name, cache)
    except _NotFound as error:
        if weights_alone is not None:
            problem = f"{typed}: its weights are in {weights_alone}, and none of its tokenizer's files"
            advice = "name that folder, and a tokenizer is guessed by the vocabulary's size"
            raise CheckpointError(f"{problem}.\n{error}; or {advice}") from None
        problem = f"{typed}: there is no such file or folder, and no such model in the hub's cache, {cache}"
        raise CheckpointError(f"{problem}.\n{error}; or {_BY_HAND}") from None


class _NotFound(Exception):
    """Why there is no such model, or none yet, and what to do."""


# The cache


def _cache() -> Path:
    """The cache's folder, as huggingface_hub/constants.py finds it."""
    above = os.getenv("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = _expanded(os.getenv("HF_HOME", os.path.join(above, "huggingface")))
    return Path(_expanded(os.getenv("HF_HUB_CACHE", os.getenv("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub")))))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def _storage(cache: Path, name: str) -> Path:
    return cache / f"models--{name.replace('/', '--')}"


def _cached(storage: Path) -> Path | None:
    """The snapshot that refs/main names, if all of the model is there. Raises CheckpointError if its index is bad."""
    try:
        commit = (storage / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not _COMMIT.fullmatch(commit):  # anything else could lead out of the cache
        return None
    snapshot = storage / "snapshots" / commit
    weights = next((file for file in WEIGHTS if os.path.isfile(snapshot / file)), None)
    if weights is None:  # as an interrupted download leaves it
        return None
    names = shards(snapshot / weights) if weights.endswith(".index.json") else ()
    return snapshot if all(os.path.isfile(snapshot / file) for file in ("config.json", *names)) else None


def _is_tokenizer_known(snapshot: Path) -> bool:
    """Whether a tokenizer is there, or the hub was asked and has none; huggingface_hub notes that in the same way."""
    asked = snapshot.parents[1] / ".no_exist" / snapshot.name / OUR_TOKENIZER_FILE
    return any((snapshot / file).is_file() for file in VOCABULARIES) or asked.exists()


# The download


def _download(name: str, cache: Path) -> Path:
    """Get a model's files into the cache. Raises _NotFound, or CheckpointError if it is not a model for us."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        from huggingface_hub import errors

        model = _Remote(name, cache, endpoint)
    except Exception as error:  # it is not there, too old, or stumbles over an environment variable of its own
        raise _NotFound(f"To download models: pip install -U huggingface_hub (here: {_first_line(error)})") from None
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        return model.download()
    except (CheckpointError, _NotFound):
        raise
    except Exception as error:  # what huggingface_hub and the packages under it raise has no common base
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError):
            reason = f"Its owner gives it on request: see {endpoint}/{name}, then {log_in}"
        elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            reason = f"{endpoint} has no {name} either, or it is private: then {log_in}, with a token that may read it"
        else:
            reason = f"{name} can't be downloaded from {endpoint} ({_first_line(error)}): try again, and it resumes"
        raise _NotFound(reason) from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".split("\n")[0]


class _Remote:
    """A model on the hub. The methods raise what huggingface_hub does."""

    def __init__(self, name: str, cache: Path, endpoint: str):
        import huggingface_hub
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        self.hub, self.http_get, self.headers, self.lock = huggingface_hub, http_get, build_hf_headers, WeakFileLock
        self.name, self.cache, self.endpoint = name, cache, endpoint
        self.storage = _storage(cache, name)
        self.revision = "main"

    def download(self) -> Path:
        """-> the snapshot. Its weights come last, and refs/main after all, so nothing half-done looks whole."""
        config_there = self._metadata("config.json")
        if config_there is None:
            raise _NotFound(f"{self.name} has no config.json at {self.endpoint}, so it is no model of transformers")
        self.revision = config_there.commit_hash
        if not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError("its answers don't have the headers of a Hugging Face hub")
        snapshot = self.storage / "snapshots" / self.revision
        self._get("config.json")
        config = snapshot / "config.json"
        config_from_huggingface(read_json_object(config), str(config))  # a model for us? Gigabytes are not first
        absent = [file for file in SMALL if not self._get(file)]
        weights = next((file for file in WEIGHTS if self._get(file)), None)
        if weights is None:
            raise _NotFound(f"{self.name} has none of {', '.join(WEIGHTS)} at {self.endpoint}")
        for shard in shards(snapshot / weights) if weights.endswith(".index.json") else ():
            if not self._get(shard):
                raise _NotFound(f"{self.name} has no {shard[:100]!r} at {self.endpoint}, which its index names")
        noted = self.storage / ".no_exist" / self.revision
        noted.mkdir(parents=True, exist_ok=True)
        for file in absent:
            (noted / file).touch()
        (self.storage / "refs").mkdir(exist_ok=True)
        with atomic_write(self.storage / "refs" / "main") as ref:
            ref.write(self.revision.encode())
        return snapshot

    def _get(self, file: str) -> bool:
        """Get one file into the snapshot; False if the hub doesn't have it."""
        metadata = self._metadata(file)
        if metadata is None:
            return False
        if _SHA256.fullmatch(metadata.etag or "") and metadata.size is not None:  # what the hub calls an LFS file
            self._get_blob(file, metadata.etag, metadata.size)
        self.hub.hf_hub_download(self.name, file, revision=self.revision, cache_dir=self.cache, endpoint=self.endpoint)
        return True

    def _metadata(self, file: str):
        try:
            return self.hub.get_hf_file_metadata(self._url(file))
        except self.hub.errors.EntryNotFoundError:
            return None

    def _url(self, file: str) -> str:
        return self.hub.hf_hub_url(self.name, file, revision=self.revision, endpoint=self.endpoint)

    def _get_blob(self, file: str, sha256: str, size: int) -> None:
        """Put a large file into blobs/: all of it, with the right sha256, or not at all.

        An interrupted download leaves SHA256.incomplete, and the next one resumes there.
        """
        blob = self.storage / "blobs" / sha256
        partial = blob.with_name(f"{sha256}.incomplete")
        lock = self.cache / ".locks" / self.storage.name / f"{sha256}.lock"  # that of huggingface_hub's own downloads
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self.lock(lock):
            while not blob.exists():
                with open(partial, "ab") as stream:
                    if stream.tell() > size:
                        stream.truncate(0)
                        stream.seek(0)
                    begin = stream.tell()
                    needed, free = size - begin, shutil.disk_usage(self.storage).free
                    if needed > free:
                        raise CheckpointError(
                            f"{self.name}: {file}: {needed / 1e9:.1f} GB are to be downloaded, and {self.cache} has "
                            f"room for {free / 1e9:.1f} GB; HF_HUB_CACHE can name a folder on another disk"
                        )
                    headers = {**self.headers(), "Accept-Encoding": "identity"}
                    self.http_get(
                        self._url(file),
                        stream,
                        resume_size=begin,
                        headers=headers,
                        expected_size=size,
                        displayed_filename=file,
                    )
                    stream.flush()
                    os.fsync(stream.fileno())
                with open(partial, "rb") as stream:
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
                if found == sha256:
                    os.replace(partial, blob)
                    return
                partial.unlink()
                if begin == 0:  # else what was left may be to blame: once more, from the beginning
                    raise CheckpointError(
                        f"{self.name}: {file}: what {self.endpoint} sent is damaged, and was thrown away: its sha256 "
                        f"is {found}, not {sha256}; try again, or {_BY_HAND}"
                    )
