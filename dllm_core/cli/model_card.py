"""The model card of an exported folder: what it is and what it took, how another program decodes it, what differs."""

from collections.abc import Mapping, Sequence

from dllm_core.checkpoints import price
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.checkpoints.lineage import licence
from dllm_core.show.html import table
from dllm_core.trace import end_token_ids

OBJECTIVES = {
    "ar": "autoregressive: the next token, attention to the left",
    "llada1": "masked diffusion (LLaDA, arXiv 2502.09992), attention to all positions",
    "llada2": "masked diffusion in blocks (LLaDA 2.0, arXiv 2512.15745), attention to the own block and all before it",
}
ANSWER = 64  # tokens that the examples ask for
OTHERS_MASK = 151669  # lmdeploy/pytorch/configurations/sdar.py; sglang/srt/dllm/config.py, which has blocks of 4, too

HEAD = """\
---
license: {license}
library_name: transformers
pipeline_tag: text-generation
---

# {title}

A small language model, trained with dllm-notebooks.
"""
SCORES = """\
Measured by dllm-notebooks' notebook 07. The interval is of the choice of questions, for this one training.
"""
OPEN = """\
import torch
from transformers import {auto}, AutoTokenizer
{imports}
folder = "."  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder{remote})
model = {auto}.from_pretrained(folder{remote}{device}).eval()
"""
CHAT = """\
messages = [{"role": "user", "content": "你是谁？"}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
"""
TEXT = """\
text = tokenizer.bos_token + "今天"
"""
PROMPT = """\
prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
"""
DECODE = {
    ("transformers", "ar"): """\
answer = model.generate(prompt, max_new_tokens={answer}, do_sample=False)[0, prompt.shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
""",
    ("transformers", "llada1"): """\
start, mask = prompt.shape[1], tokenizer.mask_token_id
x = torch.cat([prompt, torch.full((1, {answer}), mask)], dim=1)
for end in range(start + 16, start + {answer} + 1, 16):  # blocks of 16, one token a step
    while (x[0, :end] == mask).any():
        with torch.no_grad():
            logits = model(x).logits[0]{shift}
        logits[:, mask] = -torch.inf  # it is never an answer
        confidence, token = logits.softmax(dim=-1).max(dim=-1)
        confidence[x[0] != mask] = -1
        best = confidence[:end].argmax()
        x[0, best] = token[best]
answer = x[0, start:].tolist()
end = next((i for i, token in enumerate(answer) if token in {ends}), None)
print(tokenizer.decode(answer[:end], skip_special_tokens=True))
""",
    ("transformers", "llada2"): """\
pipe = LLaDA2Pipeline(model, BlockRefinementScheduler(block_length={block}), tokenizer)
length = {answer} + -(prompt.shape[1] + {answer}) % {block}  # the answer fills its last block
options = {{"num_inference_steps": {block}, "threshold": 0.9, "editing_threshold": None}}
print(pipe(input_ids=prompt, gen_length=length, **options).texts[0])
""",
    ("sdar", "llada2"): """\
x = block_diffusion_generate(
    model, {{"input_ids": prompt.to(model.device)}}, mask_id={mask}, gen_length={answer}, block_length={block}, denoising_steps={block},
    confidence_threshold=0.9, stopping_criteria_idx={ends},
)
print(tokenizer.decode(x[0, prompt.shape[1] :], skip_special_tokens=True))
""",
    ("dllm", "llada1"): """\
config = MDLMSamplerConfig(max_new_tokens={answer}, steps={answer}, block_size=16, right_shift_logits={right_shift})
x = MDLMSampler(model=model, tokenizer=tokenizer).sample([prompt[0].tolist()], config)
print(tokenizer.decode(x[0, prompt.shape[1] :], skip_special_tokens=True))
""",
}  # fmt: skip
IMPORTS = {
    ("transformers", "llada2"): "from diffusers import BlockRefinementScheduler, LLaDA2Pipeline  # 0.42\n",
    ("sdar", "llada2"): "from generate import block_diffusion_generate  # of github.com/JetAstra/SDAR\n",
    ("dllm", "llada1"): "from dllm.core.samplers import MDLMSampler, MDLMSamplerConfig  # github.com/ZHZisZZ/dllm\n",
}
DIFFERS = {
    ("transformers", "ar"): """\
- In nothing: greedy `generate` writes what dllm-notebooks writes.
""",
    ("transformers", "llada1"): """\
- `"is_causal": false` in config.json lets every token attend to all. transformers heeds it from 5.2 on; an earlier one attends to the left only and says nothing.
- `generate` writes from left to right, which this model was not trained for.
""",
    ("transformers", "llada2"): """\
- transformers does not know the architecture: `modeling_block_diffusion.py` in this folder holds it, and `trust_remote_code=True` runs it. Blocks of {block} count from the first token.
- diffusers hides the positions after `gen_length`, where dllm-notebooks fills the last block with masks: tokens are the same where the answer fills its last block. `editing_threshold` must be None: the model was not trained to edit.
- diffusers lets the model predict the mask itself; dllm-notebooks does not.
""",
    ("sdar", "llada2"): """\
- SDAR's code is not in this folder: copy the `.py` files of its `training/model/SDAR-4B-Chat` here.
- Its `generate.py` samples, and with `top_k=1` it counts every token as certain. With the most probable token and its probability instead, in float32 and without flash-attn, it writes what dllm-notebooks writes.
- {others}
""",
    ("dllm", "llada1"): """\
- `MDLMSampler` writes the whole answer and does not stop at its end; the tokens are those of dllm-notebooks.
- It lets the model predict the mask itself; dllm-notebooks does not.
""",
}  # fmt: skip


def model_card(
    title: str, loaded: LoadedCheckpoint, reader: str, trained: Sequence[Mapping], trainings: list[dict],
    validation: float | None, scores: Sequence[Mapping],
) -> str:  # fmt: skip
    """The Markdown of README.md, with the Hub's metadata.

    trained: what each training took (`price.rows`); trainings: where it comes from (`lineage`); validation: the loss
    that the run recorded; scores: of `scores.scores_of`. What a run does not record is said to be so.
    """
    info, tokenizer = loaded.info, loaded.tokenizer
    key, block, mask = (reader, info.objective), info.block_size, tokenizer.mask_token_id
    values = {
        "answer": ANSWER, "block": block, "mask": mask, "ends": end_token_ids(tokenizer), "right_shift": info.label_shift,
        "shift": ".roll(1, dims=0)  # a token is predicted one position to its left" if info.label_shift else "",
        "others": _others(mask, block),
    }  # fmt: skip
    remote = ", trust_remote_code=True" if info.objective == "llada2" else ""
    device = ', torch_dtype=torch.bfloat16, device_map="cuda"' if reader == "sdar" else ""  # flash-attn takes no other
    auto = "AutoModelForMaskedLM" if reader == "dllm" else "AutoModelForCausalLM"
    code = OPEN.format(auto=auto, remote=remote, device=device, imports=IMPORTS.get(key, ""))
    code += "\n" + (CHAT if info.chat else TEXT) + PROMPT + DECODE[key].format(**values)
    return "\n".join([
        HEAD.format(license=licence(trainings), title=title),
        table(_facts(loaded, trainings, validation)).markdown + "\n",
        "## What its training took\n",
        (table(price.rows(trained)).markdown if trained else "Not recorded.") + "\n",
        *(["## Scores\n", SCORES, table(scores).markdown + "\n"] if scores else []),
        "## How to decode\n",
        f"```python\n{code}```\n",
        "## In what that differs\n",
        DIFFERS[key].format(**values),
    ])  # fmt: skip


def _facts(loaded: LoadedCheckpoint, trainings: list[dict], validation: float | None) -> list[dict[str, str]]:
    """The rows of the table of what the model is."""
    info, config = loaded.info, loaded.model.config
    before, start = [training["run"] for training in trainings[:-1]], trainings[0]
    texts = {training["run"]: training["data"] or "not recorded" for training in trainings}
    nats = "" if validation is None else f"{validation:.3f} nats per {'answer token' if info.chat else 'token'}"
    facts = {
        "objective": OBJECTIVES[info.objective],
        "block size": f"{info.block_size} tokens" if info.block_size else "",
        "base": " → ".join(before) or ("none: trained from the start" if start["data"] else "not recorded"),
        "data": "; ".join(f"{run}: {data}" for run, data in texts.items()),
        "licence": "Apache-2.0" if licence(trainings) == "apache-2.0" else "not stated; mind its base's and its texts'",
        "trained on": "conversations, in the tokenizer's chat template" if info.chat else "texts",
        "size": f"{loaded.model.num_parameters:,} parameters, {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.vocab_size:,} tokens, {config.max_position_embeddings:,} positions",
        "validation loss": nats and (nats if info.objective == "ar" else f"at most {nats}"),
    }
    return [{"": name, "what": value} for name, value in facts.items() if value]


def _others(mask: int, block: int) -> str:
    """What LMDeploy and SGLang do with this mask id and block size."""
    if mask == OTHERS_MASK:
        return f"SGLang has blocks of 4 unless the configuration of its algorithm says block_size: {block}."
    return f"LMDeploy and SGLang fix the mask's id at {OTHERS_MASK} for SDAR, here it is {mask}: neither can decode it."
