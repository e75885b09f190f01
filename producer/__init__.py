"""From a file to a batch: `from producer import submit`."""

from producer.handle import Handle, WaitTimedOut
from producer.rows import ColumnNames
from producer.sources import Format
from producer.submit import submit

__all__ = ["ColumnNames", "Format", "Handle", "WaitTimedOut", "submit"]
