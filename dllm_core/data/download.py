"""Downloads of data files and tokenizers from ModelScope, resumable, and verified before they get their final name.

The `modelscope_hub` client (installed with `modelscope`) transfers the files: it continues `FILE.incomplete` and renames
it once size and SHA-256 agree with the repository's listing. MODELSCOPE_ENDPOINT, MODELSCOPE_CACHE and HTTPS_PROXY have
their usual effect.
"""

import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.paths import root

REACH = 8.0  # seconds to wait for the first answer of the network
TOKENIZER_FILES = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
]  # fmt: skip

CONFIGS = ["config.json", "generation_config.json"]  # they name the mask and the ends of an answer


def is_repository(name: str) -> bool:
    """Whether `name` looks like `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def home(category: str, repository: str) -> Path:
    """Where downloads from `owner/name` are kept; category: "datasets" or "models"."""
    return root() / "data" / "modelscope" / category / repository


def fetch_dataset_file(repository: str, file: str) -> Path:
    """Download `file` of the data set `owner/name` into `home("datasets", …)`, unless it is there.

    Raises DataError: no network, no such data set or file, disk too small, or a file that does not match its listed size or SHA-256.
    An interrupted download stays as `FILE.incomplete`, and the next call continues it.
    """
    folder = home("datasets", repository)
    if (folder / file).is_file():
        return folder / file
    what = f"modelscope:{repository}/{file}"
    with _hub(what) as api:
        listing = {entry.path: entry for entry in api.list_repo_files(repository, "dataset") if not entry.is_dir}
        if file not in listing:
            names = ", ".join(sorted(listing)[:20]) or "nothing"
            raise DataError(f"{what}: the data set {repository} has no file of that name; it has: {names}")
        entry = listing[file]
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{file}.incomplete"
        missing = entry.size - (partial.stat().st_size if partial.is_file() else 0)
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise DataError(
                f"{what}: {missing / 1e9:.2f} GB are to be downloaded, but {folder} has room for {free / 1e9:.2f} GB"
            )
        checks = {"expected_sha256": entry.sha256 or None, "file_size": entry.size or None}
        return Path(api.download_file(repository, "dataset", file, local_dir=folder, **checks))


def fetch_tokenizer(repository: str) -> Path:
    """The folder with the tokenizer of the ModelScope model `owner/name`, downloaded once, without the weights.

    The files are collected in a folder of another name, which is renamed when they are complete. Raises DataError as
    `fetch_dataset_file` does, and when the model has no tokenizer.
    """
    folder = home("models", repository)
    if folder.is_dir():
        return folder
    what = f"ModelScope model {repository}"
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with _hub(what) as api:
        api.download_repo(repository, "model", local_dir=unfinished, allow_patterns=TOKENIZER_FILES + CONFIGS)
    if not any((unfinished / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(f"{what}: it has no tokenizer (looked for {', '.join(TOKENIZER_FILES)})")
    os.replace(unfinished, folder)
    return folder


@contextmanager
def _hub(what: str):
    """The client of ModelScope, with its errors as DataError. what: the name of the thing to download, for errors."""
    try:
        from modelscope_hub import HubApi, errors
        from modelscope_hub.config import HubConfig
    except ImportError as error:
        raise DataError(f"{what}: downloading needs the modelscope package: pip install modelscope") from error
    config = HubConfig()
    _require_network(config.endpoint, what)
    try:
        yield HubApi(config)
    except errors.HubError as error:
        if isinstance(error, errors.FileDownloadError):  # wraps an error for each file
            error = next(iter(error.failed_files.values()))
        if isinstance(error, errors.NotExistError):
            reason = f"not found on {config.endpoint}; check owner, name and file"
        elif isinstance(error, errors.FileIntegrityError):
            reason = "the downloaded file did not match its listed size or SHA-256 and was deleted"
        elif isinstance(error, errors.NetworkError):
            reason = f"the connection to {config.endpoint} broke; run again to continue from there"
        else:
            reason = f"{config.endpoint} refused: {error}"
        raise DataError(f"{what}: {reason}") from error


def _require_network(endpoint: str, what: str) -> None:
    """Raise DataError unless `endpoint` answers, with any status, within `REACH` seconds."""
    import requests

    failure: list[Exception | None] = [TimeoutError(f"no answer in {REACH:.0f} s")]

    def knock() -> None:
        try:
            requests.head(endpoint, timeout=REACH)
            failure[0] = None
        except requests.RequestException as error:
            failure[0] = error

    thread = threading.Thread(target=knock, daemon=True)  # in a thread, because a name lookup has no time limit
    thread.start()
    thread.join(REACH)
    if failure[0] is not None:
        raise DataError(
            f"{what}: cannot reach {endpoint} ({type(failure[0]).__name__}), so nothing was downloaded. "
            "Check the network, or put the file on this disk and give its path"
        ) from failure[0]
