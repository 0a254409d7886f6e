"""`python -m dllm_core.workshop.benchmark.main`: training, decoding and feeding against the plain ways and the peers, side by side.

Every comparison is a ratio of two jobs that take turns in one process; what is printed is its median and its range over
the rounds. The JSON it writes under notebooks/benchmarks is what RESULTS.md and figures/benchmark.png are made from.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch

from dllm_core.cli.notebook_process import StatusLine
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import resolve
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.devices import cores, machine
from dllm_core.workshop.benchmark import decode as benchmark_decode
from dllm_core.workshop.benchmark import feed as benchmark_feed
from dllm_core.workshop.benchmark import jobs as benchmark_jobs
from dllm_core.workshop.benchmark import train as benchmark_train
from dllm_core.workshop.benchmark.results import RECORDS, short
from dllm_core.workshop.benchmark.timing import MeasuredRow, take_turns, torch_threads

PARTS = {"train": benchmark_train, "decode": benchmark_decode, "feed": benchmark_feed}
LARGE = "large"  # beside them, only when asked for: feeding from a file of 1.6 GB


def line(row: dict) -> str:
    """A comparison in one line: who, how many times as fast as whom, the range, what was aimed at."""
    ratio = row["ratio"]
    aim = f"  (aim: {row['target']})" if row["target"] else ""
    more = "".join(f"; {name} {short(value)}" for name, value in row["more"].items())
    numbers = f"{ratio['median']:.2f} × ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return f"{row['case']}: {row['name']} {numbers} {row['against']}{aim}{more}"


def combinations(
    parts: list[str], shapes: list[str], dtypes: list[str], threads: list[int]
) -> Iterator[tuple[str, str, str, int]]:
    """(part, shape, dtype, threads) of every combination, part after part. Feeding knows no precision: "" there."""
    for part in parts:
        yield from ((part, *rest) for rest in product(shapes, [""] if part == "feed" else dtypes, threads))


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 for bad arguments. What is finished is written at once, and stays when the rest is stopped."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.workshop.benchmark.main", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all); or {LARGE}: feeding from a file of 1.6 GB"
    )
    parser.add_argument("--shape", nargs="+", choices=tuple(benchmark_jobs.SHAPES), default=["tiny", "26m"])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every job (default: 5)")
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; writes nothing")
    options = parser.parse_args(argv)
    if wrong := [part for part in options.parts if part not in (*PARTS, LARGE)]:
        parser.error(f"no part is called {wrong[0]!r}; choose from {', '.join((*PARTS, LARGE))}")
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    parts, fed = options.parts or list(PARTS), [shape for shape in options.shape if shape in benchmark_feed.SHAPES]
    if "feed" in options.parts and not fed:
        parser.error(f"feed: knows no shape {options.shape[0]!r}; there are {', '.join(benchmark_feed.SHAPES)}")
    for part, shape, dtype, threads in combinations(
        [part for part in parts if part != LARGE], options.shape, options.dtype, options.threads
    ):
        if part == "feed" and shape not in fed:
            continue
        asked = {"part": part, "shape": shape, "dtype": dtype, "threads": threads, "rounds": options.rounds}
        measured(PARTS[part].measure(shape, dtype, threads, options.rounds, options.quick), asked, options.quick)
    if LARGE in parts:
        asked = {"part": "feed", "shape": LARGE, "dtype": "", "threads": cores(), "rounds": 1}
        measured(benchmark_feed.large_file(0.01 if options.quick else 1.6), asked, options.quick)
    return 0


def measured(found: Iterable[MeasuredRow], asked: dict, quick: bool) -> None:
    """Print a combination's comparisons as they come, and write them down, also those before an error or Ctrl-C."""
    rows, screen = [], StatusLine()
    try:
        for row in found:
            rows.append(row.to_dict())
            screen.say(line(rows[-1]))
        ended = {}
    except BaseException as error:
        ended = {"stopped": f"{type(error).__name__}: {error}"}
        raise
    finally:
        if rows and not quick:
            path = save(asked | ended, rows, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            screen.say(f"{len(rows)} comparisons in {display_path(path)}" if path else "the whole record that is there stays")


def save(asked: dict, rows: list[dict], device: torch.device) -> Path | None:
    """Write one combination's rows to a file of its own, in the machine's folder; None: what was stopped replaces nothing
    whole."""
    name = machine(device)
    slug = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    own = "-".join(str(asked[key]) for key in ("part", "shape", "dtype", "threads") if asked[key])
    path = resolve(RECORDS) / slug(name) / f"{own}.json"
    if "stopped" in asked and path.exists() and "stopped" not in json.loads(path.read_text("utf-8")):
        return None
    origin = {"machine": name, "torch": torch.__version__, "date": date.today().isoformat(), "code": code()}
    record = {**origin, **pace(asked["threads"], device), **asked, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return path


def code() -> str:
    """The commit that was measured, "+" behind it where files of the library differ from it; "" outside a clone."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    with suppress(OSError, subprocess.CalledProcessError):
        commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        return commit + "+" * bool(git(["git", "status", "--porcelain", "."]).stdout)
    return ""


def pace(threads: int, device: torch.device) -> dict[str, float]:
    """10⁹ operations per second in a product of square matrices, by precision: machines of one name differ."""
    found, size = {}, 8192 if device.type == "cuda" else 1024
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device, dtype=dtype)

        def job(a: torch.Tensor = a) -> None:
            a @ a

        with onednn_matmul(size, size, device), torch_threads(threads):
            seconds = take_turns({"product": job}, rounds=9, device=device)["product"]
        found[f"gflops_{str(dtype).removeprefix('torch.')}"] = round(2 * size**3 / median(seconds) / 1e9, 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
