from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.interop._applications import TWISTD
from tests.interop._certificates import Certificates

from .checks import Server, every_check, start

pytestmark = pytest.mark.xdist_group("servers-twisted")
# twistd logs to standard output, and the checks read standard error
SWITCHED_ON = f"""if True:
    import sys
    sys.stdout = sys.stderr
    from proxyprotocol.integrations.twisted import switch_on
    switch_on()
    {TWISTD}
"""


@pytest.fixture(scope="module", params=["plain", "tls", "asyncio"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Server]:
    secure = request.param == "tls"
    listen = "tcp:{port}:interface=127.0.0.1"
    if secure:
        listen = f"ssl:{{port}}:interface=127.0.0.1:privateKey={certificates.server}:certKey={certificates.server}"
    reactor = "asyncio" if request.param == "asyncio" else "default"
    twistd = [sys.executable, "-c", SWITCHED_ON, "-n", "--pidfile=", "--reactor", reactor]
    with start(
        [*twistd, "web", "--wsgi", "whoami.wsgi", "--listen", listen],
        tmp_path_factory.mktemp("twisted"),
        context=certificates.client_context() if secure else None,
        environment={"PROXYPROTOCOL_TRUSTED": "127.0.0.1"},
        extension=False,
    ) as server:
        yield server


@every_check
def test_a_wsgi_application_of_twistd_web_sees_the_client(server: Server, check: Callable[[Server], None]) -> None:
    check(server)
