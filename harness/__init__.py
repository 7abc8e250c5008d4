"""Is it right, is it as accurate, is it faster: a harness for DeepSeek-style models.

`from harness import load_runner` is the Python API; nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import load_runner

__all__ = ["__version__", "load_runner"]


def __getattr__(name: str) -> Any:
    if name == "load_runner":
        from harness.api import load_runner

        return load_runner
    if name == "__version__":
        from importlib.metadata import version

        return version("deepseek-harness")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
