"""The exceptions that huggingface_hub raises if it cannot provide a file, in any version."""

from __future__ import annotations


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions that mean that the hub did not provide the requested file."""
    # Up to 0.36 all of them were OSErrors or ValueErrors. From 1.0 on some are plain exceptions,
    # and errors of the HTTP library (httpx in 1.x, httpx2 in 2.x) may reach the caller if there is
    # no network. In every version the first base class of HfHubHTTPError is that library's own base
    # class, so that neither library has to be imported.
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    transport_error = HfHubHTTPError.__bases__[0]
    return (transport_error, HfHubHTTPError, EntryNotFoundError, OSError, ValueError)
