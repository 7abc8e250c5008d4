"""Tests, intervals and the sizes that they need; nothing here knows of records or of rules."""
