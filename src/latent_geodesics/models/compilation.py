"""A U-Net compiled by `torch.compile`: faster calls, after minutes of compiling at each start.

On the small model that ships a call on a CPU is about a third faster and the first one takes a minute or more, so that
it pays for long runs alone.
"""

import os
import shutil
from typing import Any

import torch

from latent_geodesics.core.errors import UserError

__all__ = ["compile_network", "is_compiled"]

COMPILERS = ("g++", "clang++", "c++")


def compile_network(unet: Any, device: torch.device) -> None:
    """Has a U-Net compile itself at its first call; its weights and its name stay what they are.

    Raises:
        UserError: on a CPU without a C++ compiler, which the library would tell of in the middle of the run.
    """
    named = os.environ.get("CXX")
    if device.type == "cpu" and not any(map(shutil.which, (named,) if named else COMPILERS)):
        raise UserError(
            f"compile=true needs a C++ compiler, and there is none of {named or ', '.join(COMPILERS)}: install one "
            "(Debian and Ubuntu: apt-get install g++), or leave compile=false"
        )
    unet.compile()


def is_compiled(unet: Any) -> bool:
    """Whether a U-Net is, or will be at its first call."""
    return unet._compiled_call_impl is not None
