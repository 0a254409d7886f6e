"""ModelScope: single data files and tokenizers, resumed where they broke off and checked before they are named done.

The `modelscope_hub` client (installed with `modelscope`) does the transfer: it continues `FILE.incomplete` and renames
it once size and SHA-256 agree with the repository's listing. MODELSCOPE_ENDPOINT, MODELSCOPE_CACHE and HTTPS_PROXY work
as everywhere.
"""

import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.paths import root

REACH = 8.0  # seconds to wait for a first sign of the network
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip


def is_repository(name: str) -> bool:
    """Whether `name` looks like `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def home(kind: str, repository: str) -> Path:
    """Where what comes from `owner/name` is kept; kind: "datasets" or "models"."""
    return root() / "data" / "modelscope" / kind / repository


def fetch_dataset_file(repository: str, file: str, folder: Path | None = None) -> Path:
    """`file` of the data set `owner/name` under `folder`, by default `home("datasets", …)`; nothing to do if there.

    Raises DataError: no network, no such data set or file, disk too small, or contents that do not match the listing.
    What has arrived of an interrupted download stays as `FILE.incomplete`; the next call goes on from there.
    """
    folder = home("datasets", repository) if folder is None else Path(folder)
    if (folder / file).is_file():
        return folder / file
    what = f"modelscope:{repository}/{file}"
    with _hub(what) as api:
        listing = {entry.path: entry for entry in api.list_repo_files(repository, "dataset") if not entry.is_dir}
        if file not in listing:
            names = ", ".join(sorted(listing)[:20]) or "nothing"
            raise DataError(f"{what}: the data set {repository} has no file of that name; it holds: {names}")
        return _fetch(api, repository, "dataset", listing[file], folder, what)


def fetch_tokenizer(repository: str) -> Path:
    """The folder with the tokenizer of the ModelScope model `owner/name`; weights are left alone.

    Complete or not there: the files are collected in a folder of another name first. Raises DataError as above.
    """
    folder = home("models", repository)
    if folder.is_dir():
        return folder
    what = f"ModelScope model {repository}"
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with _hub(what) as api:
        listing = [entry for entry in api.list_repo_files(repository, "model") if entry.path in TOKENIZER_FILES]
        if not listing:
            raise DataError(f"{what}: it has no tokenizer (looked for {', '.join(TOKENIZER_FILES)})")
        for entry in listing:
            _fetch(api, repository, "model", entry, unfinished, what)
    os.replace(unfinished, folder)
    return folder


def _fetch(api, repository: str, kind: str, entry, folder: Path, what: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{entry.path}.incomplete"
    missing = entry.size - (partial.stat().st_size if partial.is_file() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DataError(f"{what}: {missing / 1e9:.2f} GB are to be fetched, {folder} has room for {free / 1e9:.2f} GB")
    checks = {"expected_sha256": entry.sha256 or None, "file_size": entry.size or None}
    return Path(api.download_file(repository, kind, entry.path, local_dir=folder, **checks))


@contextmanager
def _hub(what: str):
    """The client, with its errors turned into DataError."""
    try:
        from modelscope_hub import HubApi, errors
        from modelscope_hub.config import HubConfig
    except ImportError as error:
        raise DataError(f"{what}: downloading needs the modelscope package: pip install modelscope") from error
    config = HubConfig()
    _require_network(config.endpoint, what)
    try:
        yield HubApi(config)
    except errors.NotExistError as error:
        raise DataError(f"{what}: not found on {config.endpoint}; check owner, name and file") from error
    except errors.FileIntegrityError as error:
        raise DataError(f"{what}: what arrived does not match its listed size or SHA-256, so it was deleted") from error
    except errors.NetworkError as error:
        raise DataError(f"{what}: the connection to {config.endpoint} broke; run again to go on from there") from error
    except errors.HubError as error:
        raise DataError(f"{what}: {config.endpoint} refused: {error}") from error


def _require_network(endpoint: str, what: str) -> None:
    """Any answer will do. In a thread, since looking a name up knows no time limit."""
    import requests

    failure: list[Exception | None] = [TimeoutError(f"no answer in {REACH:.0f} s")]

    def knock() -> None:
        try:
            requests.head(endpoint, timeout=REACH)
            failure[0] = None
        except requests.RequestException as error:
            failure[0] = error

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(REACH)
    if failure[0] is not None:
        raise DataError(
            f"{what}: cannot reach {endpoint} ({type(failure[0]).__name__}), so nothing was downloaded. "
            "Check the network, or put the file on this disk and give its path"
        ) from failure[0]
