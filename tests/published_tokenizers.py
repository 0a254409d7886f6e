"""Small copies of published tokenizers: a vocabulary of characters, and the special tokens of the original with their order,
their names in its configuration and the structure of its chat template. Templates and texts are this project's own.

Sources: SDAR's folder in JetAstra/SDAR at c2041a8, DeepSeek-R1-Distill-Qwen's on GitHub, MiniMind's in
jingyaogong/minimind at d65ef2c; the mask ids in ML-GSAI/LLaDA, inclusionAI/dFactory and ZHZisZZ/dllm at ca17675; what is
commonly known of GPT-2, LLaMA 2 and 3, Mistral, Gemma and Qwen.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from small import CHARACTERS
from tokenizers import AddedToken, Tokenizer, decoders, models

from dllm_core.data.tokenizer import CHATML

LETTERS = "".join(dict.fromkeys(CHARACTERS + "".join(map(chr, range(32, 127))) + "\n｜▁八点几东区想"))
# <header>role</header>content<end>, as LLaMA 3 and LLaDA
HEADERS = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
)
HEADERS_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
INSTRUCTIONS = (  # users and assistants in turn, and nobody else, as LLaMA 2 and Mistral
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}LEFT{{ m.content }}RIGHT{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ROLES_TAGS = (
    "<role>SYSTEM</role>detailed thinking off<|role_end|>{% for m in messages %}"
    "<role>{{ {'user': 'HUMAN', 'assistant': 'ASSISTANT'}[m.role] }}</role>{{ m.content }}<|role_end|>{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}"
    "<｜end▁of▁sentence｜>{% endif %}"
    "{% if m.role == 'tool' %}OUTPUT {{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
# MiniMind 3: a thought in each answer and an empty one before a new answer; tools in the system turn, outputs in a user's
MINIMIND = (
    "{% if tools or messages[0].role == 'system' %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for tool in tools or [] %}{{ '\n' + tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}"
    "<|im_start|>assistant\n<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{% set call = call.function or call %}"
    "<tool_call>\n{{ call.name }} {{ call.arguments | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Published:
    """first, last: the special tokens before and after the vocabulary; those of `plain` are added tokens without the mark
    "special". roles: as tokenizer_config.json names them. mask, stops: tokens whose ids config.json and
    generation_config.json hold. files: further ones."""

    last: tuple[str, ...]
    roles: dict
    template: str = ""
    first: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    mask: str = ""
    stops: tuple[str, ...] = ()
    files: dict = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The tokenizer's folder, as its publisher delivers it."""
        model = Tokenizer(models.BPE({token: i for i, token in enumerate([*self.first, *LETTERS])}, []))
        model.decoder = decoders.Fuse()
        for token in (*self.first, *self.last):
            model.add_tokens([AddedToken(token, special=token not in self.plain, normalized=False)])
        ids = {token: model.token_to_id(token) for token in (*self.first, *self.last)}
        folder.mkdir(parents=True, exist_ok=True)
        model.save(str(folder / "tokenizer.json"))
        files = {"tokenizer_config.json": {**self.roles, "chat_template": self.template or None}, **self.files}
        files["generation_config.json"] = {"eos_token_id": [ids[token] for token in self.stops] or None}
        files["config.json"] = {"vocab_size": len(ids) + 64, **({"mask_token_id": ids[self.mask]} if self.mask else {})}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), "utf-8")
        return folder


QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
LLADA = ("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]")
LLADA_ROLES = dict(zip(("bos_token", "eos_token", "cls_token", "gmask_token"), LLADA)) | {"pad_token": LLADA[1]}
ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

PUBLISHED = {
    "gpt2": Published(("<|endoftext|>",), dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")),
    "llama2": Published(
        (), ANGLES, INSTRUCTIONS.replace("LEFT", " ").replace("RIGHT", " "), first=("<unk>", "<s>", "</s>"), stops=("</s>",)
    ),
    "mistral": Published(
        (), ANGLES, INSTRUCTIONS.replace("LEFT", " ").replace("RIGHT", ""), first=("<unk>", "<s>", "</s>"), stops=("</s>",)
    ),
    "llama3": Published(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        HEADERS + "{% if add_generation_prompt %}" + HEADERS_ANSWER + "{% endif %}",
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "gemma": Published(
        ("<start_of_turn>", "<end_of_turn>"),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        GEMMA, first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), stops=("<eos>", "<end_of_turn>"),
    ),
    "qwen2.5": Published(
        QWEN, {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML, plain=QWEN_PLAIN,
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen3": Published(
        (*QWEN, "<think>", "</think>"), {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        CHATML, plain=QWEN_PLAIN, stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "deepseek": Published(
        ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>"),
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜end▁of▁sentence｜>"},
        DEEPSEEK, plain=("<｜User｜>", "<｜Assistant｜>"), stops=("<｜end▁of▁sentence｜>",),
    ),
    "sdar": Published(
        (*QWEN, "<think>", "</think>", "<|MASK|>"),
        {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|MASK|>"},
        CHATML, plain=(*QWEN_PLAIN, "<|MASK|>"), mask="<|MASK|>", stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "fast-dllm": Published(
        (*QWEN, "|<MASK>|"), {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML,
        plain=(*QWEN_PLAIN, "|<MASK>|"), stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "llada": Published(  # its template begins an answer whether one is wanted or not
        (*LLADA, "<|reserved_token_0|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        LLADA_ROLES, HEADERS + HEADERS_ANSWER, mask="<|mdm_mask|>",
    ),
    "llada2": Published((*LLADA, "<|mask|>", "<role>", "</role>", "<|role_end|>"), LLADA_ROLES, ROLES_TAGS),
    "minimind": Published(
        ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", **dict.fromkeys(("pad_token", "unk_token"), "<|endoftext|>")},
        MINIMIND, first=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        plain=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    ),
}  # fmt: skip
