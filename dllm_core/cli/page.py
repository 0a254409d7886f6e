"""`dllm page`: the page in which the shipped models run in the browser."""

import argparse

from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path
from dllm_core.show.page.page import save_folder, save_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm page`."""
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="one HTML file that opens from disk (default: page.html)"
    )
    parser.add_argument("--folder", help="write index.html with the weights beside it instead, for a web server")


def run(options: argparse.Namespace) -> None:
    """Write the page. Raises UsageError for a file and a folder at once, RunError where the weights are missing."""
    if options.file and options.folder:
        raise UsageError("dllm page: give either FILE or --folder FOLDER")
    for path in save_folder(options.folder) if options.folder else [save_page(options.file or "page.html")]:
        print(display_path(path))
