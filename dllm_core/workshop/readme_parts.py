"""The generated parts of README.md and README.zh.md: the scores with their price, where they come from, the seconds."""

import re
from collections.abc import Iterator, Mapping, Sequence

from dllm_core.cli.report import quality_cells
from dllm_core.common.errors import UsageError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.notebook.grading import paired
from dllm_core.show.html import table
from dllm_core.workshop.sweeps.files import find_sweeps
from dllm_core.workshop.sweeps.results import PRICE, Spread, gather, heading, origin, prices

PAGES = ("README.md", "README.zh.md")
CONTESTANTS = (  # (label, threshold) of a row
    ("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.95), ("LLaDA 2", 0.9),
)  # fmt: skip
STYLES = {"AR": "ar", "LLaDA 1": "llada1", "LLaDA 2": "llada2"}
TIMED = (None, 0.9)  # the thresholds for which speed and likelihood are measured
BLOCKS = {"AR": 1, "LLaDA 1": 0, "LLaDA 2": 8}  # block size of each style's training; 0: full attention
CHAIN = "Seconds of one run"
CHAIN_RECORD = "notebooks/executed/summary.json"
CHINESE = {  # of what the parts say
    CHAIN: "整条链跑一次的秒数",
    "; together ": "；一共 ",
    " min.": " 分钟。",
    "AR answers ": "AR 答对测试题的 ",
    " of the test questions.": "。",
    "Against it, in points of a hundred (95 % interval): ": "相差的百分点（95 % 置信区间）：",
    "With ": "各用 ",
    " FLOP each (`dllm sweep gap`, validation questions): ": " FLOP 时（`dllm sweep gap`，验证题）：",
    ", with ": "，",
    " tokens per forward pass.": " 个 token / 前向。",
    ": +": "：+",
    ": -": "：-",
    "exact match (95 % interval)": "精确匹配率（95 % 置信区间）",
    "tokens per forward": "每次前向的 token 数",
    "tokens per second": "每秒 token 数",
    "nats per answer token": "每个答案 token 的 nats",
    "fine-tuning FLOP": "微调 FLOP",
    "fine-tuning s": "微调秒数",
    ", threshold ": "，阈值 ",
    "· seeds ": "· 种子 ",
    " cores": " 核",
    " to ": " 至 ",
    " of ": " / ",
    " measurements are done": " 项测量已完成",
    "style": "方式",
}


def parts(page: str) -> dict[str, str]:
    """Mark → Markdown. page: of `PAGES`. Raises UsageError when a sweep that the parts need has no records."""
    sweeps = {sweep.name: sweep for sweep in find_sweeps(["paired", "estimators", "speed", "gap"])}
    records = {name: sweep.records() for name, sweep in sweeps.items()}
    if missing := [name for name, of_sweep in records.items() if not of_sweep]:
        raise UsageError(f"no records of {', '.join(missing)}: run `dllm sweep {' '.join(missing)}`")
    answers = [{**record, **row} for record in records["paired"] for row in record["rows"]]
    timed = gather(records["speed"], "speed", ["style"], ["tokens_per_second"])
    speed = {row["style"]: row["tokens_per_second"] for row in timed}
    scores = score_rows(answers, records["estimators"], speed, prices(records["paired"]))
    made = {
        "headline": f"{headline(answers)} {with_more_training(records['gap'])}",
        "scores": table(scores).markdown,
        "origin": origin(sweeps["paired"], records["paired"]),
        "seconds": chain_seconds(read_json(resolve(CHAIN_RECORD))),
    }
    return made if page == "README.md" else {mark: in_chinese(text) for mark, text in made.items()}


def headline(answers: Sequence[dict]) -> str:
    """AR's exact match, and how far each diffusion model is from it, question by question: points of a hundred."""
    rights = {}  # (label, threshold) → per seed, which of the questions are right
    for row in sorted((row for row in answers if row["kind"] == "answers"), key=lambda row: row["seed"]):
        rights.setdefault((row["label"], row.get("threshold")), []).append([mark == "1" for mark in row["right"]])
    reference = rights["AR", None]
    differences = []
    for label, threshold in CONTESTANTS[1:]:
        name = label if threshold is None else f"{label}, threshold {threshold}"
        differences.append(f"{name}: {points(rights[label, threshold], reference)}")
    share = 100 * sum(map(sum, reference)) / sum(map(len, reference))
    return f"AR answers {share:.1f} % of the test questions. Against it, in points of a hundred (95 % interval): {'; '.join(differences)}."


def points(first: list[list[bool]], reference: list[list[bool]]) -> str:
    """The paired difference in points of a hundred, with its 95 % interval; right or not, a list for each seed."""
    difference = paired(first, reference)
    mean, low, high = (f"{100 * value:+.1f}" for value in (difference.mean, difference.low, difference.high))
    return f"{mean} ({low} to {high})"


def with_more_training(records: Sequence[dict]) -> str:
    """How far LLaDA 2 is from AR, and how fast, at the full budget of the sweep `gap`."""
    rights, pace, threshold = {"full-ar": [], "full-reference": []}, [], 0.99
    for record in sorted(records, key=lambda record: record["seed"]):
        for row in record["rows"]:
            if record["cell"] in rights and row["kind"] == "answers" and row.get("threshold") in (None, threshold):
                rights[record["cell"]].append([mark == "1" for mark in row["right"]])
                if row.get("threshold"):
                    pace.append(row["tokens_per_forward"])
    if len(rights["full-ar"]) != len(rights["full-reference"]) or not pace:
        return ""
    flops = prices(records)["LLaDA 2 as in 05, full budget"]["fine_tuning_flops"].mean
    return (
        f"With {flops:.1e} FLOP each (`dllm sweep gap`, validation questions): LLaDA 2, threshold {threshold}: "
        f"{points(rights['full-reference'], rights['full-ar'])}, with {sum(pace) / len(pace):.1f} tokens per forward pass."
    )


def score_rows(
    answers: Sequence[dict], likelihoods: Sequence[dict], speed: Mapping[str, Spread], costs: Mapping[str, dict]
) -> Iterator[dict]:
    """One row for each contestant: exact match with the interval of the questions, pace, likelihood and price."""
    for label, threshold in CONTESTANTS:
        wanted = ("answers", label, threshold)
        rows = [row for row in answers if (row["kind"], row["label"], row.get("threshold")) == wanted]
        rows.sort(key=lambda row: row["seed"])
        shares = [row["right"].count("1") / len(row["right"]) for row in rows]
        pace = sum(row["tokens_per_forward"] for row in rows) / len(rows)
        timed = threshold in TIMED
        quality = quality_cells(label, threshold, shares, len(rows[0]["right"]), pace)
        del quality["each seed"]  # RESULTS.md has the range of the seeds
        yield {
            **quality,
            "tokens per second": f"{speed[STYLES[label]].mean:,.0f}" if timed else "–",
            "nats per answer token": _nats(likelihoods, label) if timed else "–",
            **{heading(name): str(costs[label][name]) if label in costs else "–" for name in PRICE},
        }


def _nats(likelihoods: Sequence[dict], label: str) -> str:
    """The mean over seeds, in the block that the model was trained for; ≤ marks an upper bound, – what has no record."""
    rows = [row for record in likelihoods if record["label"] == label for row in record["rows"]]
    rows = [row for row in rows if row["kind"] == "likelihood" and row["estimator"] in ("exact", "iid_t")]
    nats = [row["mean"] for row in rows if row["block_size"] == BLOCKS[label]]
    return f"{'' if label == 'AR' else '≤ '}{sum(nats) / len(nats):.3f}" if nats else "–"


def chain_seconds(summary: Mapping) -> str:
    """What one run of the chain took, from the record that `dllm executed` keeps of it."""
    stages = ", ".join(f"{name} {stage['seconds']:.0f}" for name, stage in summary["stages"].items())
    minutes = summary["seconds"] / 60
    where = f"{summary['machine']}, {summary['date']}, `dllm run all --jobs {summary['jobs']}`"
    return f"{CHAIN} ({where}): {stages}; together {minutes:.1f} min."


def in_chinese(text: str) -> str:
    """The same part with its headings and words in Chinese."""
    for english, chinese in CHINESE.items():
        text = text.replace(english, chinese)
    return text


def filled(text: str, made: Mapping[str, str]) -> str:
    """The text in which each part between `<!-- made: NAME -->` and `<!-- end -->` is replaced by `made[NAME]`."""
    stretch = r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(stretch, lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", text, flags=re.DOTALL)
