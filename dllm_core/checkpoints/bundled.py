"""The small trained weights in the repository, which notebooks 06 and 07 show until the chain has been trained."""

from pathlib import Path

from dllm_core.checkpoints.formats import VARIANTS, run_name
from dllm_core.common.paths import root

BUNDLED = {  # run of the chain → folder of its small copy under weights/
    "minimind_sft": "tiny-ar",
    "diffusion_llada1_sft": "tiny-llada1",
    "diffusion_llada2_sft": "tiny-llada2",
}


def bundled_checkpoint(name: str | Path) -> Path | None:
    """The folder of the small copy of the run that `name` (any of its names) means, or None where there is no copy.

    The copies lie in the project's own weights/, also when DLLM_WEIGHTS keeps the runs elsewhere.
    """
    folder = root() / "weights" / BUNDLED.get(run_name(name), "none")
    return folder if (folder / VARIANTS["last"]).is_file() else None
