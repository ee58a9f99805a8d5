"""What was reported of Knot: each case is told in a sentence, and holds in every way to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import MODELS, Model, chosen
from ways import WAYS, Way

from knot.models import events, http2


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """Each model over HTTP/1.1, and HTTP/2."""
    found = WAYS[request.param]
    with chosen(found.model, monkeypatch):
        if found.http_2:
            monkeypatch.setattr(events, "connection", http2.connection)
        yield found


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Each model in turn, for ``knot serve``."""
    with chosen(MODELS[request.param], monkeypatch) as found:
        yield found
