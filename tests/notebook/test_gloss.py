"""What a Chinese text of the corpus says in English: the whole corpus, wrong answers, broken ones."""

import json
import re
from random import Random

import pytest

from dllm_core import notebook
from dllm_core.common.yaml_file import read_yaml
from dllm_core.notebook import gloss
from dllm_core.notebook.gloss import Words
from dllm_core.workshop.corpus import tasks
from dllm_core.workshop.corpus.words import WORDS

QUESTIONS = ("sft_test", "sft_valid", "sft_reversal", "sft_sample")
TEXTS = ("pretrain_sample", "pretrain_valid", "reversal_tiny")


@pytest.fixture(scope="module")
def chats(project) -> list[str]:
    """Every prompt and every answer of the held-out questions that holds a Chinese character, each once."""
    rows = [json.loads(line) for name in QUESTIONS for line in (project / f"data/{name}.jsonl").open(encoding="utf-8")]
    texts = dict.fromkeys(turn["content"] for row in rows for turn in row["conversations"])
    return [text for text in texts if not text.isascii() and re.search("[一-鿿]", text)]


@pytest.fixture(scope="module")
def table(project) -> dict:
    return read_yaml(project / "dllm_core/notebook/gloss.yaml")


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_every_question_and_answer_has_a_whole_gloss_and_keeps_its_strings(chats):
    assert len(chats) > 1500
    for text in chats:
        english = gloss(text)
        assert english and not re.search("[「」…]", english), (text, english)
        # what is left of Chinese are strings to be copied, symbol by symbol as they stand in the text
        for string in re.findall("[一-鿿]+", english):
            assert string in text and set(string) <= set(WORDS.characters), (text, english)
        assert re.findall(r"\d+", english) == re.findall(r"\d+", text)
        for string in (*re.findall(r"[A-Z0-9]{2,}", text), *re.findall("“[^”]*”", text)):
            assert string in english, (text, english)


def test_texts_that_differ_have_glosses_that_differ(chats):
    """So a wrong answer never looks like the right one, whichever character is wrong, doubled or lost."""
    assert len({gloss(text) for text in chats}) == len(chats)
    rng = Random(0)
    characters = sorted(set("".join(chats)))
    for text in chats[::9]:
        english = gloss(text)
        for i in rng.sample(range(len(text)), min(4, len(text))):
            for instead in ("", text[i] * 2, text[rng.randrange(len(text))], rng.choice(characters)):
                other = text[:i] + instead + text[i + 1 :]
                assert other == text or gloss(other) != english, (text, other)


def test_every_text_of_pretraining_and_every_phrasing_of_the_generator_has_a_gloss(project):
    lines = [line for name in TEXTS for line in (project / f"data/{name}.jsonl").open(encoding="utf-8")]
    texts = [json.loads(line)["text"] for line in lines]
    for question in tasks.introductions()[::7]:
        texts += [question.prompt, question.answer]
    for _, key, value, phrasings in tasks.facts():
        forms = (*phrasings["questions"], phrasings["answer"], *phrasings["statements"])
        texts += [form.format(k=key, v=value) for form in forms]
    for text in texts:
        assert not re.search("[「」…]", gloss(text)), (text, gloss(text))


def test_no_english_stands_for_two_chinese_texts(table):
    """A word in place of another would look right otherwise."""
    english = [*table["phrases"].values(), *table["templates"].values()]
    for words in table["words"].values():
        english += [Words(word).bare for word in words.values()]
    assert {word for word in english if english.count(word) > 1} == {"{}: {}"}  # weather of a city, symbols of a letter
    assert table["symbols"] == WORDS.characters


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chinese, english",
    [
        ("你是谁？", "Who are you?"),
        ("早上好，你有多大？谢谢！", "Good morning, how big are you? Thank you!"),
        ("欢迎你！我的名字叫小言，大小的小，语言的言。", "Welcome! My name is Xiaoyan, “xiao” means small, “yan” means speech."),
        ("请把“人灯买牛雨路”再说一遍。", "Say “人灯买牛雨路” again."),
        ("请原样输出A3K，不要改动。", "Output A3K as it is, change nothing."),
        ("人灯买牛雨路", "人灯买牛雨路"),
        ("“人灯”倒过来写是“灯人”。", "Written backwards, “人灯” is “灯人”."),
        ("从后往前读702，读出来是什么？", "Read 702 from back to front: what does it say?"),
        ("删去开头，虎云看变成云看。", "With the beginning deleted, 虎云看 becomes 云看."),
        ("748从大到小排列是874。", "From large to small, 748 is 874."),
        ("看表回答：小敏换风车，小静看帽子。小静做什么？",
         "Answer from the list: Xiaomin swaps a windmill, Xiaojing looks at a hat. What does Xiaojing do?"),
        ("周一洗西瓜，周三找玉米。周一做什么？请写完整。",
         "Monday: wash a watermelon, Wednesday: look for some corn. What to do on Monday? Please write it in full."),
        ("葡萄58元，鸡蛋3元。鸡蛋和葡萄多少钱？", "Grapes: 58 yuan, egg: 3 yuan. How much for an egg and some grapes?"),
        ("北京小雨，海口晴天。", "Beijing: light rain, Haikou: sunny."),
        ("K买纸，U钟歌。K代表什么？", "K: 买纸, U: 钟歌. What does K stand for?"),
        ("请问，法国的首都叫什么？", "May I ask, what is the capital of France called?"),
        ("小猫的叫声是喵喵，喵喵叫个不停。", "The call of a kitten is meow-meow, meow-meow again and again."),
        ("写故事：害羞的青蛙，山上，玉米。", "Write a story: a shy frog, on the mountain, some corn."),
        ("很久以前，果园里来了一只小羊。", "Long ago, a lamb came to the orchard."),
        ("《遥远的海》的作者是林云舟。", "The author of “The distant ocean” is Lin Yunzhou."),
        ("问：请倒序输出：人灯\n答：灯人", "Q: output in reverse: 人灯\nA: 灯人"),
    ],
)  # fmt: skip
def test_by_hand(chinese, english):
    assert gloss(chinese) == english


@pytest.mark.parametrize(
    "chinese, english",
    [
        ("“人灯”倒过来写是“人灯”。", "Written backwards, “人灯” is “人灯”."),
        ("748从小到大排列是488。", "From small to large, 748 is 488."),
        ("看表可知，书包35元。", "The list says: schoolbag: 35 yuan."),
        ("法国的首都是东京，巴黎是一座城市。", "The capital of France is Tokyo, Paris is a city."),
        ("小猫的叫声是苹果，喵喵叫个不停。", "The call of a kitten is an apple, meow-meow again and again."),
        ("一天，小猫找到了苹果。吃完西瓜，小狗甜甜地睡着了。",
         "One day, the kitten found an apple. Having eaten the watermelon, the puppy fell sweetly asleep."),
        ("《遥远的海》的作者是沈松雪。", "The author of “The distant ocean” is Shen Songxue."),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_glossed_as_what_it_says(chinese, english):
    assert gloss(chinese) == english


@pytest.mark.parametrize(
    "chinese, english",
    [
        ("蘑菇3元元。", "Mushroom: 3 yuan 「元」."),
        ("小明看皮米，小宝看皮鼓。", "Xiaoming 「看皮米」, Xiaobao looks at a leather drum."),
        ("我是小，一个刚刚学会说话的小小语言模模。", "I am 「小」, a just learned to talk 「小小语言模模」."),
        ("好的，我再说一遍：“人灯买", "All right, I say it again: “人灯买"),
        ("“人灯”倒过来写是灯", "Written backwards, “人灯” is 灯"),
        ("小猫的叫声是", "The call of a kitten is …"),
        ("的首都是巴黎。", "The capital of … is Paris."),
        ("《遥远的海》的作者是林松雪。", "The author of “The distant ocean” is 「林松雪」."),
        ("美国的首都是哪里？", "Where is the capital of 「美国」?"),
        ("从前，有一只聪明的船船住在河边上。", "Once upon a time, a clever 「船船」 lived by the river 「上」."),
        ("什么是扩散模型？", "「什么是扩散模型」?"),
        ("请重复：你好", "Please repeat: 你好"),
        ("我我的的", "「我我的的」"),
        ("人灯|灯人|的", "人灯|灯人| 「的」"),
    ],
)
def test_of_a_broken_text_what_fits_is_glossed_and_the_rest_is_kept(chinese, english):
    assert gloss(chinese) == english


@pytest.mark.parametrize("text", ["", "Who are you?", "1，2。", "A3K", " \n"])
def test_a_text_without_chinese_needs_none(text):
    assert gloss(text) == ""


def test_a_long_text_without_a_sign_ends_soon_and_loses_nothing():
    assert gloss("的么" * 2000) == f"「{'的么' * 2000}」"


# --- the package ------------------------------------------------------------------------------------------------------


def test_the_table_is_part_of_the_wheel(project):
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    patterns = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    files = {file for pattern in patterns["dllm_core"] for file in (project / "dllm_core").glob(pattern)}
    assert project / "dllm_core/notebook/gloss.yaml" in files
    assert not [file for file in files if "workshop" in file.parts]  # the maintainers' tools are left out
    assert notebook.gloss is gloss
