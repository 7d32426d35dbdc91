"""A misspelt keyword is named, with the one that was probably meant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxyprotocol.asyncio import (
    create_connection,
    create_datagram_endpoint,
    create_server,
    create_unix_server,
    new_event_loop,
    start_server,
    start_unix_server,
    wrap_protocol_factory,
)
from tests.on_asyncio.loops import App, Run


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: create_server(App, "127.0.0.1", 0, tiemout=3), "unknown keyword tiemout; did you mean timeout?"),  # type: ignore[call-arg]
        (
            lambda: create_server(App, "127.0.0.1", 0, reuse_prot=True),  # type: ignore[call-arg]
            "unknown keyword reuse_prot; did you mean reuse_port?",
        ),
        (lambda: create_unix_server(App, "x", tls_timout=3), "unknown keyword tls_timout; did you mean tls_timeout?"),  # type: ignore[call-arg]
        (lambda: start_server(nothing, "127.0.0.1", 0, limt=9), "unknown keyword limt; did you mean limit?"),  # type: ignore[call-arg]
        (lambda: start_unix_server(nothing, "x", polcy=1), "unknown keyword polcy; did you mean policy?"),  # type: ignore[call-arg]
        (lambda: create_connection(App, "127.0.0.1", 9, reslt=None), "unknown keyword reslt; did you mean result?"),  # type: ignore[call-arg]
        (
            lambda: create_datagram_endpoint(App, ("127.0.0.1", 0), max_client=1),  # type: ignore[call-arg]
            "unknown keyword max_client; did you mean max_clients?",
        ),
    ],
)
def test_a_misspelt_keyword_is_named_with_the_right_one(run: Run, call: Any, sentence: str) -> None:
    async def story() -> None:
        with pytest.raises(TypeError) as raised:
            await call()
        assert str(raised.value) == sentence

    run(story)


def test_a_misspelt_keyword_on_our_loop_too() -> None:
    async def story() -> None:
        with pytest.raises(TypeError, match=r"unknown keyword tiemout; did you mean timeout\?"):
            await create_server(App, "127.0.0.1", 0, tiemout=3)  # type: ignore[call-arg,unused-ignore]

    Run(lambda: new_event_loop(trusted="any"))(story)


def test_a_factory_names_its_own_keywords_too() -> None:
    misspelt: Any = {"tls_timout": 3}
    with pytest.raises(TypeError, match=r"unknown keyword tls_timout; did you mean tls_timeout\?"):
        wrap_protocol_factory(App, **misspelt)
