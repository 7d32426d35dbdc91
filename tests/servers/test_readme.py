"""The README's lines for the servers of other projects."""

from __future__ import annotations

import re
from pathlib import Path

from .checks import CLIENT, CLIENT_RESULT, PROXY, ROOT, V2, start


def test_the_readmes_line_serves_an_application_without_a_change(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (line,) = (block for block in blocks if block.startswith("proxyprotocol run"))
    assert line.split() == ["proxyprotocol", "run", "--trusted", "10.0.0.0/8", "--", "gunicorn", "app:app"]
    (tmp_path / "app.py").write_text("from whoami import wsgi as app\n")
    command = ["gunicorn", "--bind", f"{PROXY}:{{port}}", "app:app"]
    with start(command, tmp_path, run=[]) as server, server.connect(V2) as connection:
        # one request: gunicorn's default worker closes after each
        server.assert_client(server.ask(connection), CLIENT, str(CLIENT_RESULT))
