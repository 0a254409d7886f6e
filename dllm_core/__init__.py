"""dllm_core: diffusion language models, small enough to read in one sitting.

`from dllm_core import NAME` imports the file that holds the name when it is first used:

    ModelConfig, TrainConfig, DecodeConfig  settings of a model, of its training, of a decoding     config
    CheckpointInfo                          how saved weights were trained, hence how they decode   config
    NoiseSchedule, BlockSchedule            alpha(t) with its loss weight; block sizes over a run   schedules
    learning_rate                           the warm-up–stable–decay factor of a step               schedules
    AttentionPattern                        who may attend to whom, by document, block and view     patterns
    Transformer                             one model for AR, LLaDA 1 and LLaDA 2                   model
    corrupt                                 the forward process, from x_0 to x_t                    noise
    Diffusion, ar_loss                      the losses of LLaDA 1 and 2, and of AR                  losses
    SpecialTokens                           the ids of mask, eos and pad                            sampling
    generate, infill, decode                answers; filled gaps; a decoding step by step           samplers
    Trace, DecodeStep, Edit                 a decoding's record; a step; a change made by hand      trace
    ar_nll, nll_bound, conditional_nll      nats per token; its bound; of an answer to a prompt     likelihood
    train, TrainStep                        the training loop, a generator; the numbers of a step   train
    load_checkpoint                         a saved model with its tokenizer                        checkpoints.formats

`reference` holds the losses, decoders and training loop as the papers write them.
"""

from dllm_core.common.lazy import offer

__version__ = "0.1.0"

NAMES = {  # file: what is imported from it
    "config": ("ModelConfig", "TrainConfig", "DecodeConfig", "CheckpointInfo"),
    "schedules": ("NoiseSchedule", "BlockSchedule", "learning_rate"),
    "patterns": ("AttentionPattern",),
    "model": ("Transformer",),
    "noise": ("corrupt",),
    "losses": ("Diffusion", "ar_loss"),
    "sampling": ("SpecialTokens",),
    "samplers": ("generate", "infill", "decode"),
    "trace": ("Trace", "DecodeStep", "Edit"),
    "likelihood": ("ar_nll", "nll_bound", "conditional_nll"),
    "train": ("train", "TrainStep"),
    "checkpoints.formats": ("load_checkpoint",),
}

offer(__name__, NAMES)
