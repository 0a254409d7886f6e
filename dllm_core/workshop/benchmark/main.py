"""`dllm bench`: training, decoding and feeding, compared with plain implementations and with other libraries.

Every comparison is a ratio of two jobs that take turns in one process; its median and its range over the rounds are
printed. BENCHMARKS.md and figures/benchmark.png come from the JSON that it writes to notebooks/benchmarks.
"""

import argparse
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch

from dllm_core.cli.stages import read_record
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import resolve
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.devices import cores, machine
from dllm_core.workshop.benchmark import decode, feed, train
from dllm_core.workshop.benchmark.results import RECORD, RECORDS, short, short_spread
from dllm_core.workshop.benchmark.timing import SHAPES, Setting, take_turns

PARTS = {"train": train, "decode": decode, "feed": feed}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm bench`."""
    parts_help = f"of {', '.join(PARTS)} (default: all); or {feed.LARGE}: feeding from a file of 1.6 GB"
    parser.add_argument("parts", nargs="*", metavar="part", help=parts_help)
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), default=["tiny", "26m"])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every job (default: 5)")
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; writes nothing")


def run(options: argparse.Namespace) -> None:
    """Measure what the options name; each setting's record is written as soon as it is measured. Raises UsageError."""
    if unknown := [part for part in options.parts if part not in (*PARTS, feed.LARGE)]:
        raise UsageError(f"no part is called {unknown[0]!r}; choose from {', '.join((*PARTS, feed.LARGE))}")
    if options.rounds < 1 or min(options.threads) < 1:
        raise UsageError("--rounds and --threads must be at least 1")
    if "feed" in options.parts and not set(options.shape) & set(feed.SHAPES):
        raise UsageError(f"feed: there is no shape {options.shape[0]!r}; choose from {', '.join(feed.SHAPES)}")
    for setting in settings(options):
        torch.set_num_threads(setting.threads)
        record(PARTS[setting.part].measure(setting), setting)


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """What is measured, part after part."""
    for part in options.parts or PARTS:
        if part == feed.LARGE:
            yield Setting("feed", feed.LARGE, "", cores(), 1, options.quick)
            continue
        shapes = [shape for shape in options.shape if part != "feed" or shape in feed.SHAPES]
        dtypes = [""] if part == "feed" else options.dtype
        for shape, dtype, threads in product(shapes, dtypes, options.threads):
            yield Setting(part, shape, dtype, threads, options.rounds, options.quick)


def record(measured: Iterable[dict], setting: Setting) -> None:
    """Print a setting's comparisons as they come, and write them, also those before an error or Ctrl-C."""
    rows, stopped = [], ""
    try:
        for row in measured:
            rows.append(row)
            print(line(row), flush=True)
    except BaseException as error:
        stopped = f"{type(error).__name__}: {error}"
        raise
    finally:
        if rows and not setting.quick:
            save(rows, setting, stopped)


def line(row: dict) -> str:
    """A comparison in one line: the two jobs, how many times as fast the first is, the range, the aim."""
    aim = f"  (aim: {row['target']})" if row["target"] else ""
    more = "".join(f"; {name} {short(value)}" for name, value in row["more"].items())
    return f"{row['case']}: {row['name']} {short_spread(row['ratio'])} times as fast as {row['against']}{aim}{more}"


def save(rows: list[dict], setting: Setting, stopped: str) -> None:
    """Write a setting's rows to its file in the machine's folder. stopped: the error that ended the measurement, or "";
    such a record replaces no complete one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = machine(device)
    folder = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    stem = "-".join(filter(None, (setting.part, setting.shape, setting.dtype, str(setting.threads))))
    path = resolve(RECORDS) / folder / f"{stem}.json"
    earlier = read_record(path, RECORD)  # empty where there is none, or a damaged one
    if stopped and earlier and "stopped" not in earlier:
        print(f"{display_path(path)}: the complete record stays")
        return
    content = {"machine": name, "torch": torch.__version__, "date": date.today().isoformat(), "code": commit()}
    content |= gflops(device) | asdict(setting) | ({"stopped": stopped} if stopped else {})
    del content["quick"]
    write_json(path, content | {"rows": rows})
    print(f"{display_path(path)}: {len(rows)} comparisons")


def commit() -> str:
    """The commit that was measured, with a "+" where the code differs from it; "" outside a clone."""
    git = partial(subprocess.run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    with suppress(OSError, subprocess.CalledProcessError):
        name = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        return f"{name}+" if git(["git", "status", "--porcelain", "."]).stdout else name
    return ""


def gflops(device: torch.device) -> dict[str, float]:
    """10⁹ operations per second in a product of square matrices, by precision: machines of one name differ."""
    speeds, size = {}, 8192 if device.type == "cuda" else 1024
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(size, size, device=device, dtype=dtype)

        def job(matrix: torch.Tensor = matrix) -> None:
            matrix @ matrix

        with onednn_matmul(size, size, device):
            seconds = take_turns({"product": job}, rounds=9, device=device)["product"]
        speeds[f"gflops_{str(dtype).removeprefix('torch.')}"] = round(2 * size**3 / median(seconds) / 1e9, 1)
    return speeds
