"""Reading jsonl: files are found, bad lines are named, each schema becomes the right tokens."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from chats import TALK, talks, words
from small import CHARACTERS, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dllm_core.common.errors import DataError
from dllm_core.data import parallel
from dllm_core.data.chat import chat_prompt
from dllm_core.data.jsonl import chat_documents, find_data, read_jsonl, read_texts, text_documents
from dllm_core.data.tokenizer import CHATML, SPECIAL_TOKENS, character_tokenizer, load_tokenizer

# --- files --------------------------------------------------------------------------------------------------------


def test_lines_are_numbered_and_blank_ones_skipped(workspace):
    Path("x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert list(read_jsonl("x.jsonl")) == [(1, {"text": "a"}), (4, {"text": "b"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b"\n', r"x\.jsonl:2: not valid JSON: .* at column 13"),
        (b'{"text": "a"}\n[1]\n', r"x\.jsonl:2: expected a JSON object, found list"),
        (b'{"text": "a"}\n\n{"text": "\xff"}\n', r"x\.jsonl:3: not UTF-8"),
        (b"", r"x\.jsonl: the file is empty"),
        (b"\n  \n", r"x\.jsonl: the file is empty"),
        (b'{"text": "a"}\n{"text": ' + b"[" * 100_000, r"x\.jsonl:2: this JSON cannot be read: .*recursion"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"x\.jsonl:1: this JSON cannot be read: .*digits"),
        (b'{"text": "a"}\n{"text": "a\\uD83D"}', r"x\.jsonl:2: .* half a surrogate pair"),
        (b'{"a\\ude00": "a"}', r"x\.jsonl:1: .* half a surrogate pair"),
    ],
)
def test_bad_lines_are_named(workspace, content, message):
    Path("x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_jsonl("x.jsonl"))


def test_whole_surrogate_pairs_and_what_only_looks_like_one_are_text(workspace):
    Path("x.jsonl").write_bytes(rb'{"text": "\ud83d\ude00 \\ud83d \ud55c"}')
    assert list(read_jsonl("x.jsonl")) == [(1, {"text": "\U0001f600 \\ud83d 한"})]


def test_relative_paths_count_from_the_project(workspace, monkeypatch):
    write("x.jsonl", {"text": "a"})
    monkeypatch.chdir(workspace / "notebooks")
    assert find_data("x.jsonl") == workspace / "x.jsonl"


def test_bad_paths_to_data_are_named(workspace):
    with pytest.raises(DataError, match=f"{workspace}/data/none.jsonl: no such file .*count from"):
        find_data("data/none.jsonl")
    with pytest.raises(DataError, match="this is a folder"):
        find_data("notebooks")
    with pytest.raises(DataError, match="expected modelscope:owner/name/file"):
        find_data("modelscope:owner/name")
    with pytest.raises(DataError, match="expected modelscope:owner/name/file"):
        find_data("modelscope:owner/name/../../x")


@pytest.mark.parametrize("name", ["pretrain_hq.jsonl", "sft_mini_512.jsonl", "sft_t2t_mini.jsonl"])
def test_minimind_files_by_name(workspace, name):
    now = "pretrain_t2t_mini.jsonl, pretrain_t2t.jsonl, .*agent_rl.jsonl.*h100-t2t"
    with pytest.raises(DataError, match=f"modelscope:gongjy/minimind_dataset/{name} as the path; .* now names {now}"):
        find_data(f"./dataset/{name}")
    kept = workspace / "data/modelscope/datasets/gongjy/minimind_dataset" / name
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert find_data(f"./dataset/{name}") == kept
    assert find_data(f"modelscope:gongjy/minimind_dataset/{name}") == kept  # without a network


# --- plain text ---------------------------------------------------------------------------------------------------


def test_text_becomes_bos_text_eos(workspace, tokenizer):
    write("x.jsonl", {"text": "ab"}, {"text": "  "}, {"text": "你好"})
    read = text_documents("x.jsonl", tokenizer)
    assert len(read) == 2 and read.info["blank"] == 1
    assert words(tokenizer, read, 1) == ("<|im_start|>你好<|im_end|>",) + (["<|im_start|>你好<|im_end|>"],)
    assert read.tokens.dtype == np.uint16


def test_field(workspace, tokenizer):
    write("x.jsonl", {"body": "a"}, {"body": "b"})
    assert len(text_documents("x.jsonl", tokenizer, field="body")) == 2
    with pytest.raises(DataError, match=r'x\.jsonl:1: expected a string under "text".*this line has: body'):
        text_documents("x.jsonl", tokenizer)


def test_text_of_another_type(workspace, tokenizer):
    write("x.jsonl", {"text": "a"}, {"text": 3})
    with pytest.raises(DataError, match=r"x\.jsonl:2: .*found int"):
        text_documents("x.jsonl", tokenizer)
    assert not list(Path("data").glob("cache/*")), "a failed reading left something in the cache"


def test_nothing_but_blanks(workspace, tokenizer):
    write("x.jsonl", {"text": ""}, {"text": "\n"})
    with pytest.raises(DataError, match="no document is left to train on .2 blank"):
        text_documents("x.jsonl", tokenizer)


@pytest.mark.parametrize("control", [*SPECIAL_TOKENS.values(), "<|im_end|>\n<|im_start|>assistant\n"])
def test_control_tokens_in_a_document_are_plain_text(workspace, control):
    """Characters of the text, so that nothing in it begins, ends, pads or masks."""
    tokenizer = character_tokenizer(["ab", *SPECIAL_TOKENS.values(), "\n"])
    read = text_documents(write("x.jsonl", {"text": f"a{control}b"}), tokenizer)
    bos, *inner, eos = read[0][0].tolist()
    assert (bos, eos) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.convert_ids_to_tokens(inner) == list(f"a{control}b")
    assert read.info["control"] == control.count("<|")


def test_a_tokenizer_that_makes_control_tokens_of_plain_text_is_refused(workspace):
    """Its model has them among its words, as in some SentencePiece vocabularies."""
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL_TOKENS.values(), "a"])}, "<|unk|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL_TOKENS, chat_template=CHATML)
    assert len(text_documents(write("w.jsonl", {"text": "a a"}), tokenizer)) == 1
    with pytest.raises(DataError, match=r"x\.jsonl:2: .*'<\|im_end\|>' of plain text"):
        text_documents(write("x.jsonl", {"text": "a a"}, {"text": "a <|im_end|> a"}), tokenizer)
    with pytest.raises(DataError, match=r"prompt: .*'<\|mask\|>' of plain text"):
        chat_prompt(tokenizer, "a <|mask|> a")
    with pytest.raises(DataError, match=r"y\.jsonl:2: .*'<\|im_end\|>' of plain text"):
        chat_documents(talks("y.jsonl", TALK[:2], [{"role": "user", "content": "<|im_end|>"}, TALK[1]]), tokenizer, 64)


def test_more_lines_than_a_chunk_keep_their_order(workspace, tokenizer, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 50)
    write("x.jsonl", *({"text": chr(97 + i % 26) * (i % 5 + 1)} for i in range(40)))
    read = text_documents("x.jsonl", tokenizer)
    assert [words(tokenizer, read, i)[0] for i in range(40)] == [
        f"<|im_start|>{chr(97 + i % 26) * (i % 5 + 1)}<|im_end|>" for i in range(40)
    ]


def test_a_call_that_pads_and_cuts_leaves_no_trace(workspace):
    texts, path = write("x.jsonl", {"text": "ab"}, {"text": "你好"}), talks("y.jsonl", TALK)
    fresh, used = character_tokenizer([CHARACTERS]), character_tokenizer([CHARACTERS])
    used("abc", padding="max_length", truncation=True, max_length=2)
    assert chat_prompt(used, "你好") == chat_prompt(fresh, "你好")
    for read in (lambda t: text_documents(texts, t), lambda t: chat_documents(path, t, 64)):
        used("abc", padding="max_length", truncation=True, max_length=2)
        assert read(used).tokens.tolist() == read(fresh).tokens.tolist()
    assert len(list(Path("data/cache").iterdir())) == 2


# --- conversations ------------------------------------------------------------------------------------------------


def test_only_answers_and_their_end_are_scored(workspace, tokenizer):
    read = chat_documents(talks("x.jsonl", TALK), tokenizer, 200)
    whole, scored = words(tokenizer, read)
    assert scored == ["我是小言。<|im_end|>", "你好。<|im_end|>"]
    assert whole == tokenizer.apply_chat_template(TALK, tokenize=False).removesuffix("\n")


def test_each_answer_becomes_one_example(workspace, tokenizer):
    read = chat_documents(talks("x.jsonl", TALK), tokenizer, 200, turns="each")
    assert [words(tokenizer, read, i)[1] for i in range(len(read))] == [["我是小言。<|im_end|>"], ["你好。<|im_end|>"]]
    for i, end in enumerate((1, 3)):  # the prompt is token for token what generation starts from
        ids, scored = read[i]
        assert ids[~scored].tolist() == chat_prompt(tokenizer, TALK[:end])


def test_system_turns(workspace, tokenizer):
    talk = [{"role": "system", "content": "你是小言。"}, *TALK[:2]]
    whole, scored = words(tokenizer, chat_documents(talks("x.jsonl", talk), tokenizer, 200))
    assert whole.startswith("<|im_start|>system\n你是小言。<|im_end|>\n<|im_start|>user\n") and scored == [
        "我是小言。<|im_end|>"
    ]


def test_long_answers_are_cut_without_an_end(workspace, tokenizer):
    prompt = len(chat_prompt(tokenizer, "你是谁？"))
    read = chat_documents(talks("x.jsonl", TALK[:2]), tokenizer, prompt + 3)
    assert words(tokenizer, read)[1] == ["我是小"] and read.info["cut"] == 1
    exact = chat_documents("x.jsonl", tokenizer, prompt + 6)
    assert words(tokenizer, exact)[1] == ["我是小言。<|im_end|>"] and exact.info["cut"] == 0


def test_examples_without_room_or_answer_are_left_out(workspace, tokenizer):
    long = [{"role": "user", "content": "a" * 60}, TALK[1]]
    silent = [TALK[0], {"role": "assistant", "content": " \n"}]
    read = chat_documents(talks("x.jsonl", long, TALK[:2], silent), tokenizer, 50)
    assert len(read) == 1 and (read.info["cut"], read.info["dropped"], read.info["blank"]) == (0, 1, 1)
    with pytest.raises(DataError, match="no document is left .*1 dropped"):
        chat_documents(talks("y.jsonl", long), tokenizer, 50)


def test_a_blank_answer_among_others_is_not_learned(workspace, tokenizer):
    silent = [TALK[0], {"role": "assistant", "content": ""}, *TALK[2:]]
    assert words(tokenizer, chat_documents(talks("x.jsonl", silent), tokenizer, 200))[1] == ["你好。<|im_end|>"]


@pytest.mark.parametrize("row", [{"text": "a"}, {"conversations": "a"}, {"messages": None}])
def test_a_line_of_another_kind_stops_the_file(workspace, tokenizer, row):
    write("x.jsonl", {"conversations": TALK}, row)
    message = rf"x\.jsonl:2: no list of turns .*this line has: {next(iter(row))}.*expected .*conversations"
    with pytest.raises(DataError, match=message):
        chat_documents("x.jsonl", tokenizer, 64)
    assert not list(Path("data").glob("cache/*"))


def test_settings(workspace, tokenizer):
    path = talks("x.jsonl", TALK)
    with pytest.raises(DataError, match="turns='some'"):
        chat_documents(path, tokenizer, 64, turns="some")
    with pytest.raises(DataError, match="max_length=1"):
        chat_documents(path, tokenizer, 1)


# --- both ---------------------------------------------------------------------------------------------------------


def test_texts_of_both_schemas(workspace):
    write("x.jsonl", {"text": "ab"}, {"conversations": TALK[:2]})
    assert list(read_texts("x.jsonl")) == ["ab", "你是谁？", "我是小言。"]


def test_real_files(workspace, real_data):
    folder = real_data.resolve()
    for name in ("tang_pretrain.jsonl", "alpaca_zh_sft.jsonl"):
        with open(folder / name, encoding="utf-8") as file:
            Path(name).write_text("".join(itertools.islice(file, 1500)), encoding="utf-8")
    tokenizer = load_tokenizer(folder / "minimind_tokenizer")
    poems = text_documents("tang_pretrain.jsonl", tokenizer)
    assert len(poems) == 1500
    for i, (_, row) in zip(range(3), read_jsonl("tang_pretrain.jsonl")):
        assert tokenizer.decode(poems[i][0][1:-1]) == row["text"]
    pairs = chat_documents("alpaca_zh_sft.jsonl", tokenizer, 512)
    assert len(pairs) + pairs.info["dropped"] + pairs.info["blank"] == 1500
    for i, (_, row) in zip(range(3), read_jsonl("alpaca_zh_sft.jsonl")):
        ids, scored = pairs[i]
        question, answer = (turn["content"] for turn in row["conversations"])
        assert ids[~scored].tolist() == chat_prompt(tokenizer, question)
        assert tokenizer.decode(ids[scored]) == answer + "<|im_end|>"
