"""Tokenizers as their publishers deliver them: which token has which role, what is said, and where an answer ends."""

import json
import warnings

import pytest
from chats import TALK, talks
from published_tokenizers import PUBLISHED

from dllm_core.common.errors import DataError
from dllm_core.data import tokenizer as module
from dllm_core.data.batches import PackedBatches
from dllm_core.data.chat import chat_prompt
from dllm_core.data.jsonl import chat_documents, text_documents
from dllm_core.data.tokenizer import encode_text, load_tokenizer
from dllm_core.trace import end_token_ids

END, START, NEW = "<|endoftext|>", "<|im_start|>", "<|mask|>"
SENTENCE = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
ROLES = {  # name → bos, eos, pad, mask, the ends
    "gpt2": (END, END, END, NEW, [END]),
    "llama2": ("<s>", "</s>", "</s>", NEW, ["</s>"]),
    "mistral": ("<s>", "</s>", "</s>", NEW, ["</s>"]),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", NEW, ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]),
    "gemma": ("<bos>", "<eos>", "<pad>", NEW, ["<eos>", "<end_of_turn>"]),
    "qwen2.5": (START, "<|im_end|>", END, NEW, ["<|im_end|>", END]),
    "qwen3": (START, "<|im_end|>", END, NEW, ["<|im_end|>", END]),
    "deepseek": (SENTENCE[0], SENTENCE[1], SENTENCE[1], NEW, [SENTENCE[1]]),
    "sdar": (START, END, END, "<|MASK|>", [END, "<|im_end|>"]),
    "fast-dllm": (START, "<|im_end|>", END, "|<MASK>|", ["<|im_end|>", END]),
    "llada": ("<|startoftext|>", END, END, "<|mdm_mask|>", [END, "<|eot_id|>"]),
    "llada2": ("<|startoftext|>", END, END, NEW, [END, "<|role_end|>"]),
    "minimind": (START, "<|im_end|>", END, NEW, ["<|im_end|>"]),
}
SAID = {  # pieces of the warning
    "gpt2": ["pad is '<|endoftext|>' (eos)"],
    "llama2": ["pad is '</s>' (eos)"],
    "mistral": ["pad is '</s>' (eos)"],
    "llama3": ["pad is '<|eot_id|>' (eos)"],
    "gemma": ["an answer ends with '<end_of_turn>' (so the chat template) or with eos '<eos>'"],
    "qwen2.5": ["bos is '<|im_start|>' (the chat template begins with it)"],
    "qwen3": ["bos is '<|im_start|>' (the chat template begins with it)"],
    "sdar": ["bos is '<|im_start|>'", "an answer ends with '<|im_end|>' (so the chat template) or with eos"],
    "fast-dllm": ["mask is '|<MASK>|' (the name of a published mask)", "bos is '<|im_start|>'"],
    "llada": ["mask is '<|mdm_mask|>' (id 118, so config.json)", "an answer ends with '<|eot_id|>'"],
    "llada2": ["an answer ends with '<|role_end|>'"],
}
CHATTING = [name for name in PUBLISHED if PUBLISHED[name].template]
pytestmark = pytest.mark.filterwarnings("ignore:.*leaves open")


def described(tokenizer) -> tuple:
    roles = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token)
    return *roles, tokenizer.convert_ids_to_tokens(tokenizer.end_token_ids)


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_published_tokenizer_has_its_roles(workspace, name):
    """Named or chosen; said once; unchanged by saving; a mask that the model knows keeps its id."""
    folder = PUBLISHED[name].write(workspace / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        tokenizer = load_tokenizer(name)
        load_tokenizer(name)
    assert described(tokenizer) == ROLES[name]
    assert len(caught) == (name in SAID)
    assert all(piece in str(caught[0].message) for piece in SAID.get(name, ()))
    before = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    is_new = tokenizer.mask_token not in {token["content"] for token in before}
    assert len(tokenizer) == before[-1]["id"] + 1 + is_new if PUBLISHED[name].last else is_new
    tokenizer.save_pretrained("kept")
    kept = load_tokenizer("kept")
    assert described(kept)[:4] == ROLES[name][:4] and len(kept) == len(tokenizer)
    assert set(kept.end_token_ids) <= set(tokenizer.end_token_ids)


@pytest.mark.parametrize("name", CHATTING)
@pytest.mark.parametrize("turns", ["all", "each"])
def test_each_published_template_trains_what_it_generates(workspace, name, turns):
    """Prompts are those of generation; an answer ends with the token that its template writes, which the answer's text may
    spell out; and every text comes back."""
    tokenizer = load_tokenizer(PUBLISHED[name].write(workspace / name))
    forged = [TALK[0], {"role": "assistant", "content": f"我是{tokenizer.eos_token}小言。"}, *TALK[2:]]
    read = chat_documents(talks("x.jsonl", TALK, forged), tokenizer, 500, turns)
    assert len(read) == 2 * (1 if turns == "all" else 2) and not read.info["odd"] and not read.info["unwritten"]
    end = ROLES[name][4][-1] if name in ("gemma", "sdar", "llada", "llada2") else tokenizer.eos_token
    for i in range(len(read)):
        ids, scored = read[i]
        assert tokenizer.convert_ids_to_tokens([ids[-1]]) == [end] and scored[-1]
        assert sum(int(token) in end_token_ids(tokenizer) for token in ids[scored]) == (2 if turns == "all" else 1)
        if turns == "each":
            talk = (TALK, forged)[i // 2]
            assert ids[~scored].tolist() == chat_prompt(tokenizer, talk[: 2 * (i % 2) + 1])
            assert tokenizer.decode(ids[scored][:-1]).strip() == talk[2 * (i % 2) + 1]["content"]


def test_documents_of_one_token_for_bos_and_eos(workspace):
    """GPT-2: it stands on both sides of a document."""
    tokenizer = load_tokenizer(PUBLISHED["gpt2"].write(workspace / "gpt2"))
    (workspace / "x.jsonl").write_text('{"text": "ab"}\n', "utf-8")
    ids = text_documents("x.jsonl", tokenizer)[0][0].tolist()
    assert ids == [tokenizer.eos_token_id, *encode_text(tokenizer, "ab").ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("name", ["llada", "gemma", "minimind"])
def test_an_answer_with_another_end_is_filled_with_eos(workspace, name):
    tokenizer = load_tokenizer(PUBLISHED[name].write(workspace / name))
    read = chat_documents(talks("x.jsonl", TALK[:2]), tokenizer, 500)
    length = int(read.lengths[0])
    block = {"batch_size": 1, "seq_len": 256, "pack": "whole", "fill": "block", "block_size": 64}
    batch = next(PackedBatches(read, **block))
    filled = batch.tokens[batch.document == 0].tolist()
    assert len(filled) % 64 == 0 and filled[length - 1] in end_token_ids(tokenizer)
    assert filled[length:] == [tokenizer.eos_token_id] * (len(filled) - length)
    with pytest.warns(UserWarning, match="cut at their end"):
        cut = chat_documents("x.jsonl", tokenizer, length - 2)
    assert int((next(PackedBatches(cut, **block)).document == 0).sum()) == length - 2  # without its end it gets none


def test_a_given_mask_goes_before_the_folders(workspace):
    folder = PUBLISHED["llada"].write(workspace / "llada")
    reserved = load_tokenizer(folder).convert_tokens_to_ids("<|reserved_token_0|>")
    assert load_tokenizer(folder, mask_token_id=reserved).mask_token_id == reserved
    size = PUBLISHED["gpt2"].write(workspace / "gpt2") and len(load_tokenizer("gpt2")) - 1  # without the new mask
    given = load_tokenizer("gpt2", mask_token_id=size)
    assert (given.mask_token, given.mask_token_id, len(given)) == (NEW, size, size + 1)


@pytest.mark.parametrize(("number", "message"), [
    (5, "mask_token_id=5 is '.', an ordinary token"), (500, "mask_token_id=500 is no id of this tokenizer, which has 122"),
    (-1, "mask_token_id=-1 is no id"), (True, "mask_token_id=True is no id"), (114, "the mask token .* is also pad"),
])  # fmt: skip
def test_a_mask_that_cannot_be_one_is_refused(workspace, number, message):
    folder = PUBLISHED["llada"].write(workspace / "llada")
    with pytest.raises(DataError, match=message):
        load_tokenizer(folder, mask_token_id=number)
    (folder / "config.json").write_text(json.dumps({"mask_token_id": number}), "utf-8")
    with pytest.raises(DataError, match=message):
        load_tokenizer(folder)


def test_eos_may_stand_in_a_configuration_alone(workspace):
    folder = PUBLISHED["qwen2.5"].write(workspace / "t")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}), "utf-8")
    assert load_tokenizer("t").eos_token == "<|im_end|>"
    (folder / "generation_config.json").write_text('{"eos_token_id": 4000}', "utf-8")
    with pytest.raises(DataError, match=r"generation_config.json: eos_token_id=4000 is no id of this tokenizer"):
        load_tokenizer("t")


def test_older_files_do_not_count_beside_added_tokens_decoder(workspace):
    """SDAR's added_tokens.json names its mask otherwise than tokenizer_config.json, which transformers reads alone."""
    folder = PUBLISHED["sdar"].write(workspace / "t")
    mask = load_tokenizer("t").mask_token_id
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    entry = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False) | {"content": "<|MASK|>"}
    config["added_tokens_decoder"] = {str(mask): entry}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"<MASK>": mask}), "utf-8")
    assert (load_tokenizer("t").mask_token, load_tokenizer("t").mask_token_id) == ("<|MASK|>", mask)


def test_a_sentencepiece_file_alone_says_what_reads_it(workspace, monkeypatch):
    (workspace / "t").mkdir()
    (workspace / "t/tokenizer.model").write_bytes(b"\n")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"t: has tokenizer.model.*Put the tokenizer.json .*pip install sentencepiece"):
        load_tokenizer("t")
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    with pytest.raises(DataError, match=r"Put the tokenizer.json .*, or a tokenizer_config.json such as .*LlamaTokenizer"):
        load_tokenizer("t")
