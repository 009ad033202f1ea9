"""Patterns for the messages of errors."""

import re


def only(message):
    """Fits a message from its first to its last letter."""
    return rf"\A{re.escape(message)}\Z"
