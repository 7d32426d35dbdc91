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
    ("function", "arguments", "misspelt", "meant"),
    [
        (create_server, (App, "127.0.0.1", 0), "tiemout", "timeout"),
        (create_server, (App, "127.0.0.1", 0), "reuse_prot", "reuse_port"),
        (create_unix_server, (App, "x"), "tls_timout", "tls_timeout"),
        (start_server, (nothing, "127.0.0.1", 0), "limt", "limit"),
        (start_unix_server, (nothing, "x"), "polcy", "policy"),
        (create_connection, (App, "127.0.0.1", 9), "reslt", "result"),
        (create_datagram_endpoint, (App, ("127.0.0.1", 0)), "max_client", "max_clients"),
    ],
)
def test_a_misspelt_keyword_is_named_with_the_right_one(
    run: Run, function: Any, arguments: tuple[Any, ...], misspelt: str, meant: str
) -> None:
    async def story() -> None:
        with pytest.raises(TypeError) as raised:
            await function(*arguments, **{misspelt: 1})
        assert str(raised.value) == f"unknown keyword {misspelt}; did you mean {meant}?"

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
