"""One training forward under an attention pattern: the host's tensors go to the device, logits come only where needed."""

import torch.nn.functional as F
from torch import Tensor

from dllm_core.compute.attention import labels_to, last_layer_mask, prepare_mask
from dllm_core.compute.transfer import to_device
from dllm_core.compute.work import Work, training_work
from dllm_core.patterns import AttentionPattern

# Logits are computed for a multiple of this many states: oneDNN generates and keeps code for every new shape of a
# matrix product, and a compiled model may compile again.
LOGITS_MULTIPLE = 64


def predict(
    model, tokens: Tensor, pattern: AttentionPattern, elements: tuple[Tensor, Tensor], embeddings: Tensor | None = None
) -> tuple[Tensor, Work]:
    """(logits of some elements of one forward of tokens [B, S]: float32 [n, V]; the work of training with them).

    elements: (row, element) [n] int64 each, whose logits are wanted. embeddings: [B, S, D] in place of the tokens' own.
    Tensors on the host are sent to the model's device here; everything that must be looked at is looked at before.
    """
    count = len(elements[0])
    rows, columns = (F.pad(part, (0, -count % LOGITS_MULTIPLE)) for part in elements)  # padded with element 0
    noisy = int((pattern.view[0] > 0).sum())  # the noisy elements come first; 0 where there is no clean half
    clean_unread = 0 < noisy < pattern.view.shape[1] and bool((columns < noisy).all())
    work = training_work(model.config, pattern, count, clean_unread)
    if model.device.type != "cpu":  # there the forward does not check
        model.check_positions(pattern.position)
    pattern = labels_to(pattern, model.device)
    mask = prepare_mask(pattern)
    hidden = model(
        to_device(tokens, model.device),
        pattern.position,
        mask,
        embeddings=embeddings,
        read=(to_device(rows, model.device), to_device(columns, model.device)),
        last=last_layer_mask(mask, pattern, noisy) if clean_unread else None,
    )
    return model.logits(hidden)[:count].float(), work
