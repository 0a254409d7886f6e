"""`python -m dllm_core.benchmark`: training, decoding and feeding against the plain ways and the peers, side by side.

Every comparison is a ratio of two jobs that take turns in one process; what is printed is its median and its range over
the rounds. The JSON it writes under notebooks/benchmarks is what RESULTS.md and figures/benchmark.png are made from.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from datetime import date

import torch

from dllm_core import benchmark_decode, benchmark_feed, benchmark_train
from dllm_core.devices import machine
from dllm_core.paths import resolve
from dllm_core.running import Screen
from dllm_core.timing import Row

PARTS = {"train": benchmark_train, "decode": benchmark_decode, "feed": benchmark_feed}
RECORDS = "notebooks/benchmarks"


def line(row: dict) -> str:
    """A comparison in one line: who, how many times as fast as whom, the range, what was aimed at."""
    ratio = row["ratio"]
    aim = f"  (aim: {row['target']})" if row["target"] else ""
    more = "".join(f"; {name} {value}" for name, value in row["more"].items())
    numbers = f"{ratio['median']:.2f} × ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return f"{row['case']}: {row['name']} {numbers} {row['against']}{aim}{more}"


def measure(
    parts: list[str], shapes: list[str], dtypes: list[str], threads: list[int], rounds: int, quick: bool
) -> Iterator[Row]:
    """The rows of every combination asked for, part after part. Feeding knows no precision and is measured once a shape."""
    for part in parts:
        for shape in shapes:
            for dtype in dtypes[:1] if part == "feed" else dtypes:
                for count in threads:
                    yield from PARTS[part].measure(shape, dtype, count, rounds, quick)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--shape", nargs="+", choices=("tiny", "26m"), default=["tiny", "26m"])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every job (default: 5)")
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; writes nothing")
    options, screen = parser.parse_args(argv), Screen()
    if wrong := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part is called {wrong[0]!r}; choose from {', '.join(PARTS)}")
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, parts = [], options.parts or list(PARTS)
    where = (options.shape, options.dtype, options.threads, options.rounds, options.quick)
    for row in measure(parts, *where):
        rows.append(row.to_dict())
        screen.say(line(rows[-1]))
    if not options.quick:
        save(rows, parts, machine(device), screen)
    return 0


def save(rows: list[dict], parts: list[str], name: str, screen: Screen) -> None:
    """Write each part's rows to a file of its own, named after the machine."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    for part in parts:
        own = [row for row in rows if row["part"].startswith(part)]
        origin = {"machine": name, "torch": torch.__version__, "date": date.today().isoformat(), "part": part}
        path = resolve(f"{RECORDS}/{slug}.{part}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**origin, "rows": own}, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        screen.say(f"{len(own)} comparisons in {path.name}")


if __name__ == "__main__":
    sys.exit(main())
