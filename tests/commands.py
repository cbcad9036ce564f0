"""Command lines of tests."""

from __future__ import annotations


def last_words(*words):
    """Of words with the same key the last one, so that a test can change one of several."""
    return list({str(word).partition("=")[0]: str(word) for word in words}.values())
