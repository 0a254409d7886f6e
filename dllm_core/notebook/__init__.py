"""What the notebooks need beside the lesson, under one name: `from dllm_core import notebook`, then `notebook.settings(…)`.

A name is imported from its file when it is first used.

settings, pick_device, pick_dtype                 the parameters, checked; the device; its precision
open_tokenizer, open_checkpoint, open_start       a tokenizer; a checkpoint; the one that a training starts from
read_texts, text_documents, chat_documents        the lines of a file, as texts and as tokens
read_splits, reading_report                       training and validation data; what was read
PackedBatches, validation_batches                 rows of tokens
train_config, estimate, preflight                 a training: its configuration, its cost, what would stop it
LoadedCheckpoint, RunFolder, read_state           a model with its tokenizer; a run on disk; the tensors of a file
prompt_ids, chat_prompt, mask_gaps                from a text to tokens
prompt_notes                                      what a model does not know of a text
generate_answers                                  from prompts to traces
load_questions, grade                             questions with one right answer, and their exact match
gloss                                             what a Chinese text says, in English
parse_numbers                                     "4,8,16" as numbers
"""

from dllm_core.common.lazy import offer

NAMES = {  # file: the names that are imported from it
    "checkpoints.formats": ("LoadedCheckpoint",),
    "checkpoints.run_folder": ("RunFolder",),
    "checkpoints.tensors": ("read_state",),
    "compute.devices": ("pick_device", "pick_dtype"),
    "data.batches": ("PackedBatches", "validation_batches"),
    "data.chat": ("chat_prompt",),
    "data.jsonl": ("chat_documents", "read_texts", "text_documents"),
    "data.report": ("reading_report",),
    "notebook.asking": ("generate_answers", "mask_gaps", "prompt_ids", "prompt_notes"),
    "notebook.gloss": ("gloss",),
    "notebook.grading": ("grade", "load_questions"),
    "notebook.ranges": ("parse_numbers",),
    "notebook.setup": ("open_checkpoint", "open_start", "open_tokenizer", "preflight", "read_splits", "settings", "train_config"),
    "notebook.training_cost": ("estimate",),
}

offer(__name__, NAMES)
