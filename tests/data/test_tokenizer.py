"""Tokenizers: the four roles, the mask added, round trips, and what is said when something is missing."""

import json
from pathlib import Path

import pytest

from dllm_core.common.errors import DataError
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer, require_chat_template

TEXTS = ["你好，world!\n  两个空格", "再见 a\tb"]


def save(tokenizer, folder: Path, **changes) -> Path:
    """Save, then edit tokenizer_config.json (None removes)."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        config.pop(name, None) if value is None else config.update({name: value})
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_characters_come_back_exactly():
    tokenizer = character_tokenizer(TEXTS)
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id] == [
        0,
        1,
        2,
        3,
    ]
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer("鑫", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_characters_do_not_depend_on_the_order_of_the_texts():
    assert character_tokenizer(TEXTS).get_vocab() == character_tokenizer(TEXTS[::-1]).get_vocab()


def test_characters_need_text():
    with pytest.raises(DataError, match="no character"):
        character_tokenizer(["", ""])
    with pytest.raises(DataError, match="half a surrogate pair"):
        character_tokenizer(["a\ud83d"])


def test_chat_prompt_is_chatml():
    tokenizer = character_tokenizer(TEXTS)
    text = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(chat_prompt(tokenizer, "你好")) == text
    assert chat_prompt(tokenizer, [{"role": "user", "content": "你好"}]) == chat_prompt(tokenizer, "你好")
    assert chat_prompt(tokenizer, "你好")[0] == tokenizer.bos_token_id


def test_a_saved_tokenizer_is_the_same(workspace):
    tokenizer = character_tokenizer(TEXTS)
    tokenizer.save_pretrained(workspace / "kept")
    again = load_tokenizer("kept")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.mask_token_id == tokenizer.mask_token_id
    assert chat_prompt(again, "你好") == chat_prompt(tokenizer, "你好")


def test_dot_is_the_project_root(workspace):
    character_tokenizer(TEXTS).save_pretrained(workspace)
    assert load_tokenizer(".").eos_token_id == 2


def test_a_missing_mask_is_added_last(workspace):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    roles = {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    backend = Tokenizer(models.BPE({**{token: i for i, token in enumerate(roles.values())}, "a": 3}, []))
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained("bare")
    tokenizer = load_tokenizer("bare")
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<|mask|>", 4, 5)
    tokenizer.save_pretrained("kept")
    assert (load_tokenizer("kept").mask_token_id, len(load_tokenizer("kept"))) == (4, 5)


def test_a_vocabulary_with_an_unnamed_mask_keeps_its_id(workspace):
    save(character_tokenizer(TEXTS), workspace / "t", mask_token=None)
    tokenizer = load_tokenizer("t")
    assert tokenizer.mask_token_id == 3
    assert len(tokenizer) == len(character_tokenizer(TEXTS))


def test_a_missing_eos_is_named(workspace):
    save(character_tokenizer(TEXTS), workspace / "t", eos_token=None)
    with pytest.raises(DataError, match="no eos token.*tokenizer_config.json"):
        load_tokenizer("t")


def test_roles_must_differ(workspace):
    save(character_tokenizer(TEXTS), workspace / "t", mask_token="<|endoftext|>")
    with pytest.raises(DataError, match="mask token .* is also"):
        load_tokenizer("t")


@pytest.mark.parametrize("role", ["pad", "bos", "eos", "mask", "unk"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_role_whose_token_no_file_lists_adds_no_entry(workspace, file, role):
    folder = save(character_tokenizer(TEXTS), workspace / "t", **{f"{role}_token": None})
    config = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**config, f"{role}_token": "<|typo|>"}), encoding="utf-8")
    with pytest.raises(DataError, match=f"{role}_token '<.typo.>' is not in the vocabulary"):
        load_tokenizer("t")


def test_a_token_that_only_the_config_lists_may_have_a_role(workspace):
    size = len(character_tokenizer(TEXTS))
    entry = {"content": "<|end|>", "special": True}
    entry |= dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    save(character_tokenizer(TEXTS), workspace / "t", eos_token="<|end|>", added_tokens_decoder={str(size): entry})
    assert load_tokenizer("t").eos_token_id == size
    save(character_tokenizer(TEXTS), workspace / "t", added_tokens_decoder={"10000000": entry})
    with pytest.raises(DataError, match="'<.end.>' cannot have the id 10000000"):
        load_tokenizer("t")


@pytest.mark.parametrize("number, words", [(10_000_000, "from 0 to 10000000, with gaps"), (5, "some id twice")])
def test_ids_run_from_0_without_a_gap(workspace, number, words):
    folder = save(character_tokenizer(TEXTS), workspace / "t")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["w"] = number
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        load_tokenizer("t")


def test_code_that_comes_with_a_tokenizer_is_not_run_and_not_asked_about(workspace, monkeypatch):
    (workspace / "t").mkdir()
    (workspace / "t/vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (workspace / "t/tokenizer_config.json").write_text(json.dumps(config))
    (workspace / "t/own.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    with pytest.raises(DataError, match="code in the folder .auto_map., which is never run"):
        load_tokenizer("t")


def test_conversations_need_a_template(workspace):
    tokenizer = character_tokenizer(TEXTS)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        require_chat_template(tokenizer)
    with pytest.raises(DataError, match="no chat template"):
        chat_prompt(tokenizer, "你好")


def test_absent_and_broken_folders(workspace, monkeypatch):
    (workspace / "data").mkdir()
    with pytest.raises(DataError, match="no such folder"):  # not a model id: data/ is the project's own folder
        load_tokenizer("data/tokenizer")
    with pytest.raises(DataError, match="no such folder"):
        load_tokenizer("nowhere")
    with pytest.raises(DataError, match="no tokenizer here"):
        load_tokenizer("data")
    folder = save(character_tokenizer(TEXTS), workspace / "t")
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="tokenizer_config.json: not valid JSON"):
        load_tokenizer("t")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text('{"version": "1.0"}', encoding="utf-8")
    with pytest.raises(DataError, match="cannot read a tokenizer"):
        load_tokenizer("t")


def test_loading_uses_no_network(workspace, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("the network was asked")

    character_tokenizer(TEXTS).save_pretrained("t")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_tokenizer("t")


def test_minimind_tokenizer(real_data):
    tokenizer = load_tokenizer(real_data.resolve() / "minimind_tokenizer")
    assert (len(tokenizer), tokenizer.mask_token_id) == (6401, 6400)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.decode(chat_prompt(tokenizer, "你是谁？")).endswith("assistant\n<think>\n\n</think>\n\n")
