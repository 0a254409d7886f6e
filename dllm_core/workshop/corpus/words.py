"""The word lists, facts and phrasings of `words.yaml` as attributes: `WORDS.people`, `WORDS.stories["zh"]`."""

from pathlib import Path
from types import SimpleNamespace

import yaml

WORDS = SimpleNamespace(**yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")))
