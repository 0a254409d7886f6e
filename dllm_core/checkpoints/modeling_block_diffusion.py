"""Block diffusion (LLaDA 2.0, arXiv 2512.15745; BD3LM, arXiv 2503.09573) in transformers, without any other package.

A token attends to its own block of `config.block_size` positions and to all blocks before it, and its logits predict
the token in its own place. Blocks count from a row's first token: padding on the left belongs to none.
"""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


class BlockDiffusionQwen3Config(Qwen3Config):
    model_type = "block_diffusion_qwen3"


class BlockDiffusionQwen3ForCausalLM(Qwen3ForCausalLM):
    config_class = BlockDiffusionQwen3Config
    _supports_flash_attn = _supports_flex_attn = False  # neither takes a mask of its own for every query

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **options):
        """attention_mask: [B, K], 1 for a key that is shown, becomes block-causal; None: all; [B, 1, Q, K]: as it is."""
        if attention_mask is None or attention_mask.dim() == 2:
            inputs = options["inputs_embeds"] if input_ids is None else input_ids
            cached = past_key_values.get_seq_length() if past_key_values is not None else 0
            if attention_mask is None:
                attention_mask = torch.ones(len(inputs), cached + inputs.shape[1], device=inputs.device)
            position = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            if position_ids is None:
                position_ids = position[:, cached:]
            block = position // self.config.block_size
            shown = (block[:, None, :] <= block[:, cached:, None]) & attention_mask.bool()[:, None, :]
            hidden = torch.zeros(shown.shape, dtype=self.dtype, device=inputs.device)
            attention_mask = hidden.masked_fill(~shown, torch.finfo(self.dtype).min)[:, None]
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, **options)

    def generate(self, *args, **options):
        raise NotImplementedError("block diffusion does not write from left to right; README.md says how to decode")
