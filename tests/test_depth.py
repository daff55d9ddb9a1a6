"""How much of the project a run of one pair by one method goes through: what a reader has to follow."""

import inspect
import sys
import threading
from pathlib import Path

from torch.nn.modules.module import register_module_forward_pre_hook

ROOT = Path(__file__).parents[1]
OWN = (str(ROOT / "src"), str(ROOT / "run.py"))
# What a reader can follow. Both are reached: what is added to this path joins a call or a file that is there.
MOST_FRAMES, MOST_FILES = 18, 70


def is_own(code):
    return code.co_filename.startswith(OWN)


def callers(frame):
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def own_frames():
    """The project's own on the stack, from the command to the network; a thread's way goes on in the one it is of."""
    frames = sys._current_frames()
    threads = dict.fromkeys([threading.main_thread().ident, threading.get_ident()])
    return [code for thread in threads for code in callers(frames[thread]) if is_own(code)]


def test_a_pair_by_one_method_is_shallow_and_touches_few_files(command_line, tiny_model_folder, pictures, tmp_path):
    frames, files = [], set()

    def entered(module, arguments):
        if not frames and type(module).__name__ == "UNet2DConditionModel":
            frames.extend(own_frames())

    def called(frame, event, argument):
        code = frame.f_code
        # Bodies of modules and classes are not optimised; they and what they call when they are imported do not count.
        if event == "call" and code.co_filename not in files and is_own(code) and code.co_flags & inspect.CO_OPTIMIZED:
            imported = any("importlib" in one.co_filename for one in callers(frame))
            files.update([code.co_filename] if code.co_filename.endswith(".py") and not imported else [])

    hook = register_module_forward_pre_hook(entered)
    threading.setprofile(called)
    sys.setprofile(called)
    try:
        outcome = command_line(
            f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}", "method=[geodesic]",
            f"model.path_or_name={tiny_model_folder}", "model.steps=5", "model.cache_dir=null", "frames=5",
            "logger.mode=disabled", f"output_dir={tmp_path / 'run'}",
        )  # fmt: skip
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        hook.remove()
    assert outcome.code == 0, outcome.stderr
    assert len(frames) <= MOST_FRAMES, [code.co_qualname for code in frames]
    assert len(files) <= MOST_FILES, sorted(Path(file).name for file in files)
