"""The public contract: what a plugin may import. Everything here but the tensor contracts is torch-free."""

from harness.contract.columns import Column
from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.contract.hookspecs import hookimpl
from harness.contract.options import Option, Query

__all__ = ["Column", "MachineFacts", "ModelConfig", "Option", "Query", "hookimpl"]
