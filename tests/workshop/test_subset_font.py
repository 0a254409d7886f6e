"""The subset font has the characters of the repository, and the command makes what it is asked for."""

import io

from fontTools.ttLib import TTFont

from dllm_core.show.figures import SUBSET
from dllm_core.workshop import subset_font


def characters(source) -> set[str]:
    return {chr(code) for code in TTFont(source).getBestCmap()}


def test_the_committed_font_has_every_chinese_character_of_the_repository():
    """Otherwise make it anew: the first lines of dllm_core/workshop/subset_font.py say how."""
    chinese = {sign for sign in subset_font.needed() if "\u2e80" <= sign <= "\uffef"}
    assert len(chinese) > 900 and chinese <= characters(SUBSET)


def test_the_committed_font_shows_most_of_real_text(real_data):
    for name, share in (("tang_pretrain.jsonl", 0.89), ("alpaca_zh_sft.jsonl", 0.97)):
        chinese = [sign for sign in (real_data / name).read_text("utf-8") if "\u4e00" <= sign <= "\u9fff"]
        own = characters(SUBSET)
        assert sum(sign in own for sign in chinese) > share * len(chinese)


def test_making_keeps_the_asked_characters_alone_and_gives_the_same_bytes():
    made = subset_font.make(SUBSET, "明月a，ሀ")
    assert characters(io.BytesIO(made)) == set("明月a，")
    assert subset_font.make(SUBSET, "，明a月") == made
    assert characters(io.BytesIO(subset_font.make(SUBSET, characters(SUBSET)))) == characters(SUBSET)


def test_the_command_adds_the_most_common_characters_of_a_text(tmp_path, monkeypatch, capsys):
    needed, source = subset_font.needed(), str(SUBSET)
    first, second, third = sorted(characters(SUBSET) - needed)[:3]
    (tmp_path / "text").write_text(f"{third}{second * 2}{first * 3}明明明明", "utf-8")
    monkeypatch.setattr(subset_font, "SUBSET", tmp_path / "Small.otf")
    monkeypatch.setattr(subset_font, "MOST", len(needed) + 2)
    subset_font.main(source, str(tmp_path / "text"))
    assert characters(tmp_path / "Small.otf") == needed & characters(SUBSET) | {first, second}
    assert "Small.otf: " in capsys.readouterr().out
