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
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """Of the installed distribution; a checkout that is only on the path, as under `make gpu`, has none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("deepseek-harness")
    except PackageNotFoundError:
        return "of a checkout that is not installed"
