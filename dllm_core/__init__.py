"""dllm_core: diffusion language models, small enough to read whole.

Rooms (each a module): config, schedules, patterns, policies and trace stand on the ground; model and objectives on
them; decode and train on those; runs, evaluate and answers above; show, widgets and batch at the roof.
"""

__version__ = "0.1.0"
