"""The exercises that check themselves: `check.corrupt(corrupt)` holds a learner's function against the library's.

Each check prints one line, which says in words what is wrong, and returns whether the function is right. The likely
mistakes of an exercise stand beside the right function, each under the words that the learner is told.

    02  corrupt(x_0, t, mask_token_id, generator) → x_t            mask each token with probability t
    02  llada1_loss(model, x_0, mask_token_id, t, masked) → loss   of one document, nats per token, weighted by 1/t
    03  block_mask(length, block_size) → [2L, 2L] bool             who may see whom in [x_t ; x_0]
    03  top_k_merge(checkpoints, k) → state dict                   the mean of the k best of [(bound, state dict), …]
    05  complementary_views(drawn, maskable, t) → two views        (masked [L], weight), (complement [L], its weight)
    06  commit_above_threshold(confidence, masked, threshold)      → [B, N] bool, at least the most confident of a row
"""

from dllm_core.notebook.check.llada1 import corrupt, llada1_loss
from dllm_core.notebook.check.llada2 import block_mask, commit_above_threshold, complementary_views, top_k_merge

__all__ = [
    "block_mask", "commit_above_threshold", "complementary_views", "corrupt", "llada1_loss", "top_k_merge",
]  # fmt: skip
