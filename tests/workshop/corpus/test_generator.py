"""The embedded corpus: its splits share nothing, its files are what the generator writes, its tokenizer loses nothing."""

import lzma
import re
from collections import Counter, defaultdict
from random import Random

import pytest
from small import ROOT
from tokenizers import Tokenizer

from dllm_core.data import embedded
from dllm_core.data.tokenizer import SPECIAL_TOKENS
from dllm_core.workshop.corpus import generator, tasks
from dllm_core.workshop.corpus.splits import Pool
from dllm_core.workshop.corpus.words import WORDS

DATA = ROOT / "data"


@pytest.fixture(scope="module")
def corpus():
    return generator.build()


@pytest.fixture(scope="module")
def pool():
    return Pool(0)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DATA / "tokenizer" / "tokenizer.json"))


def trained(corpus):
    return [*corpus.sft, *(item for pair in corpus.dialogues for item in pair)]


def held_out(corpus):
    return [*corpus.sft_test, *corpus.sft_valid, *corpus.reversal]


def occurring(needles, text):
    """Which of the needles (3 characters or more) occur in the text."""
    by_head = defaultdict(list)
    for needle in needles:
        by_head[needle[:3]].append(needle)
    result = set()
    for i in range(len(text) - 2):
        for needle in by_head.get(text[i : i + 3], ()):
            if needle not in result and text.startswith(needle, i):
                result.add(needle)
    return result


# ---- splits -----------------------------------------------------------------------------------------------------
def test_occurring_finds_what_is_there():
    assert occurring({"abc", "bcde", "cdx"}, "xabcdex") == {"abc", "bcde"}


def test_groups_are_equal_parts(corpus):
    assert set(Counter(i.group for i in corpus.sft_test).values()) == {160}
    assert set(Counter(i.group for i in corpus.sft_valid).values()) == {60}
    assert {i.group for i in corpus.sft_test} == set(WORDS.groups) == {i.group for i in corpus.sft_valid}
    sizes = Counter(i.group for i in corpus.sft)
    assert all(sizes[group] >= 3500 for group in WORDS.groups)  # training has more of what is slow to learn
    assert Counter(i.group for i in corpus.reversal) == {"reversal_unseen": 32, "reversal_seen": 32}


def test_every_prompt_has_one_answer(corpus):
    answers = defaultdict(set)
    for item in (*trained(corpus), *held_out(corpus)):
        answers[item.prompt].add(item.answer)
    assert [prompt for prompt, distinct in answers.items() if len(distinct) > 1] == []
    assert len({item.prompt for item in held_out(corpus)}) == len(held_out(corpus))


def test_no_held_out_prompt_was_trained(corpus):
    assert {item.prompt for item in trained(corpus)}.isdisjoint(item.prompt for item in held_out(corpus))


def test_nothing_held_out_is_spelled_in_any_training_text(corpus, pool):
    strings_and_tables = {key for key in pool.keys if "|" not in key}  # "|" joins the slots of a story
    assert len(strings_and_tables) > 1000
    questions = {item.prompt for item in held_out(corpus)}
    for item in held_out(corpus):
        if item.group == "recall":  # a fact's question without its prefix: held out under every prefix
            prefixes = {p for part in WORDS.recall_prefixes.values() for p in part if item.prompt.startswith(p)}
            questions.add(item.prompt.removeprefix(max(prefixes, key=len)))
    sft = "\n\n".join(f"{item.prompt}\n{item.answer}" for item in trained(corpus))
    assert occurring(strings_and_tables, sft) == set()
    text = "\n\n".join(corpus.pretrain)
    assert occurring(strings_and_tables, text) == set()
    # a short introduction question may be the tail of a longer one ("…，你是谁？"): there its answer differs, so look
    # for the pair; every other question may not occur at all
    introductions = {item.prompt: item.answer for item in held_out(corpus) if item.group == "introduction"}
    for question in occurring(questions, text):
        assert question in introductions, question
        for joint in ("", " ", "\n", "\n答：", "\nA: "):
            assert question + joint + introductions[question] not in text


def test_stories_are_held_out_by_their_slots(corpus):
    def slots(item):
        language = "en" if item.prompt.isascii() else "zh"
        return frozenset(
            max((w for w in WORDS.story_slots[language][slot] if w in item.prompt), key=len) for slot in "apf"
        )

    seen = {slots(item) for item in trained(corpus) if item.group == "story"}
    assert seen.isdisjoint(slots(item) for item in held_out(corpus) if item.group == "story")


def test_parts_of_held_out_introductions_are_trained(corpus, pool):
    """What is held out is the combination: its question and its greeting were both seen, only not together."""
    trained_prompts = [i.prompt.lower() for i in corpus.sft if i.group == "introduction"]
    for part in WORDS.introduction.values():
        for core in (core for cores in part["cores"].values() for core in cores):
            assert sum(core.lower() in prompt for prompt in trained_prompts) >= 10, core
        for prefix, _ in part["prefixes"]:
            assert sum(prompt.startswith(prefix.lower()) for prompt in trained_prompts) >= 10, prefix


def test_recall_facts_and_phrasings_are_trained_separately(pool):
    kept = {prompt for prompt, _ in pool.recall}
    for name, key, _, phrasings in tasks.facts():
        trained = [question.format(k=key) in kept for question in phrasings["questions"]]
        assert 2 <= sum(trained), f"{name} {key} is trained in {sum(trained)} phrasings"
    for facts in WORDS.facts.values():
        for question in facts["questions"]:
            assert any(question.format(k=key) in kept for key in facts["pairs"]), question


def test_report_prompts_are_trained_with_the_right_answer(corpus):
    answers = {item.prompt: item.answer for item in corpus.sft}
    assert all("小言" in answers[prompt] for prompt in WORDS.report_prompts)
    assert answers["你好，请介绍你自己。"] == "你好！" + answers["请介绍你自己。"]


def test_unseen_direction_is_nowhere_in_training(corpus):
    one_way = list(zip(WORDS.people, WORDS.titles))[: len(WORDS.people) // 2]
    sentences = [s for text in corpus.pretrain if "《" in text for s in re.split("(?<=[。？\n])", text)]
    sentences += [f"{item.prompt}{item.answer}" for item in trained(corpus) if item.group == "reversal"]
    for person, title in one_way:
        facts = [s for s in sentences if person in s and f"《{title}》" in s]
        assert facts and all(s.index(person) < s.index(f"《{title}》") for s in facts)
    prompts = {item.prompt for item in corpus.reversal if item.group == "reversal_unseen"}
    assert not any(f"《{title}》" in item.prompt for item in trained(corpus) for _, title in one_way)
    assert all(any(f"《{title}》" in prompt for prompt in prompts) for _, title in one_way)


# ---- tasks --------------------------------------------------------------------------------------------------------
class First(Random):
    """Always draws what comes first."""

    def choice(self, seq):
        return seq[0]


@pytest.mark.parametrize(
    "name, symbols, result",
    [
        ("first", "天地人", "天"), ("last", "天地人", "人"), ("drop_first", "天地人", "地人"), ("drop_last", "天地人", "天地"),
        ("twice", "天地人", "天地人天地人"), ("double", "天地人", "天天地地人人"),
        ("sort_up", "314", "134"), ("sort_down", "314", "431"),
    ],
)  # fmt: skip
def test_operations_compute(monkeypatch, name, symbols, result):
    monkeypatch.setattr(WORDS, "operations", {name: {"zh": [("{s}", "{r}")], "en": [("{s}", "{r}")]}})
    monkeypatch.setattr(tasks, "string", lambda *_: ("zh", tuple(symbols), ""))
    rng = First(0)
    rng.sample = lambda pool, n: list(symbols)
    rng.random = lambda: 0.5
    drawn = tasks.operation(rng)
    assert (drawn.question.prompt, drawn.question.answer) == (symbols, result)


def test_copies_and_mirrors_hold_the_string():
    rng = Random(1)
    for _ in range(300):
        symbols, result = tasks.reverse(rng).strings
        assert symbols == result[::-1] and len(set(symbols)) == len(symbols)
        drawn = tasks.copy(rng)
        spelled = "".join(drawn.strings[0])
        assert spelled in " " + drawn.question.prompt and spelled in " " + drawn.question.answer


def test_reading_answers_are_those_of_the_question(monkeypatch):
    facts = tasks.Table("duty", (("小明", "买西瓜"), ("小红", "画老虎")))
    monkeypatch.setattr(tasks, "table", lambda *_: facts)
    wanted = {
        "小明做什么？": "小明买西瓜。", "小红做什么？": "小红画老虎。", "谁买西瓜？": "小明买西瓜。", "谁画老虎？": "小红画老虎。",
        "小明和小红做什么？": "小明买西瓜，小红画老虎。", "小红和小明做什么？": "小红画老虎，小明买西瓜。",
    }  # fmt: skip
    rng, seen = Random(3), set()
    for _ in range(400):
        item = tasks.reading(rng).question
        question_text = max((question for question in wanted if question in item.prompt.partition(facts.text())[2]), key=len)
        seen.add(question_text)
        assert item.answer in {lead + wanted[question_text] for _, _, lead in WORDS.reading_frames["zh"]}
    assert seen == set(wanted)


def test_reading_answers_follow_their_key_in_the_prompt():
    rng = Random(2)
    for _ in range(500):
        drawn = tasks.reading(rng)
        facts = drawn.keys[0]
        assert facts in drawn.question.prompt
        stop = "." if drawn.question.prompt.isascii() else "。"
        answer = re.split("[：，:,] ?", drawn.question.answer.removesuffix(stop))
        clauses = re.split("[，,] ?", facts.removesuffix(stop))
        assert len(set(clauses)) == len(clauses)
        assert answer[-1] in clauses  # the last clause is one of the facts, word for word


def test_windows_are_runs_of_three_and_more():
    assert tasks.windows(tuple("abcd")) == {"abc", "bcd", "abcd"}
    assert tasks.windows(tuple("ab")) == set()


def test_a_table_that_ends_in_a_held_out_one_shares_its_key():
    entries = (("小明", "买西瓜"), ("小红", "画老虎"), ("小刚", "找铅笔"))
    assert tasks.Table("duty", entries[1:]).keys[0] in tasks.Table("duty", entries).keys


# ---- files --------------------------------------------------------------------------------------------------------
def test_committed_files_are_byte_for_byte_what_the_generator_writes(corpus):
    written = generator.files(corpus)
    assert set(written) == embedded.EMBEDDED
    for name, text in written.items():
        packed = name in embedded.PACKED
        committed = lzma.decompress((DATA / f"{name}.xz").read_bytes()) if packed else (DATA / name).read_bytes()
        assert committed == text.encode(), f"data/{name}: dllm corpus writes it anew"


# ---- tokenizer ----------------------------------------------------------------------------------------------------
def test_tokenizer_writes_every_text_and_reads_it_back(corpus, tokenizer):
    texts = [*corpus.pretrain[:5000], *corpus.pretrain_valid]
    texts += [t for item in (*corpus.sft[:8000], *held_out(corpus)) for t in (item.prompt, item.answer)]
    texts += ["a ~tab-less [line]\nwith {every} kind; of \"sign\" & 'case' <Xy> 100%"]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.decode_batch(ids, skip_special_tokens=False) == texts
    unknown = tokenizer.token_to_id("<|unk|>")
    assert not any(unknown in row for row in ids)
    assert set("".join(corpus.pretrain)) <= {token for token in tokenizer.get_vocab() if len(token) == 1}


def test_tokens_are_characters_or_pieces_of_english_words(tokenizer):
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL_TOKENS.values())
    longer = [token for token in tokenizer.get_vocab() if len(token) > 1 and token not in SPECIAL_TOKENS.values()]
    assert all(re.fullmatch(" ?[a-z]+", token) for token in longer)
    assert 1000 <= tokenizer.get_vocab_size() <= 1400
    for word in ("user", "assistant", "system"):
        assert len(tokenizer.encode(word).ids) == 1
    assert tokenizer.encode("龘").tokens == ["<|unk|>"]


def test_lengths_fit(corpus, tokenizer):
    def count(items):
        prompts = tokenizer.encode_batch([item.prompt for item in items])
        answers = tokenizer.encode_batch([item.answer for item in items])
        return [(len(p.ids), len(a.ids) + 1) for p, a in zip(prompts, answers)]

    lengths = count([*corpus.sft[:10_000], *held_out(corpus)])
    assert max(p + a + 8 for p, a in lengths) <= 112  # 8: what the chat template adds
    assert max(a for _, a in lengths) <= 60
    test = count(corpus.sft_test)
    assert sum(a for _, a in test) / len(test) >= 14


def test_tokenizer_is_rebuilt_from_the_corpus(corpus, tokenizer, tmp_path):
    generator.train_tokenizer(corpus.texts(), tmp_path)
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.get_vocab() == tokenizer.get_vocab()
    settings = (tmp_path / "tokenizer_config.json").read_text()
    assert settings == (DATA / "tokenizer" / "tokenizer_config.json").read_text()


def test_chat_template():
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "tokenizer")
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert ids == (0, 1, 2, 3) and tokenizer.unk_token_id == 4
    turns = [
        {"role": "system", "content": "小声说。"}, {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"}, {"role": "user", "content": "Who?"},
    ]  # fmt: skip
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\n小声说。<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\n你好！<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    encoded = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(encoded) == text
    assert tokenizer.decode(encoded, skip_special_tokens=True).startswith("system\n小声说。\nuser")
