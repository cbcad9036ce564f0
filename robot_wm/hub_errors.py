"""What huggingface_hub raises where it cannot hand over a file, whichever version is installed."""

from __future__ import annotations


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions that mean: the hub did not give what was asked for.

    Up to 0.36 all of them were OSErrors or ValueErrors. From 1.0 on some are plain exceptions, and
    what the HTTP library raises where there is no network may reach the caller as it is: httpx in
    1.x, httpx2 in 2.x. In every version HfHubHTTPError derives first from that library's own base
    class, which names it without an import of either.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    transport_error = HfHubHTTPError.__bases__[0]
    return (transport_error, HfHubHTTPError, EntryNotFoundError, OSError, ValueError)
