"""A clean virtual environment, as a user of the wheel has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Environment:
    """A virtual environment, and an empty working directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.elsewhere = directory / "elsewhere"
        self.elsewhere.mkdir(parents=True)
        # Without pip, which takes longer to install than everything else: the pip that runs here works for it.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
        self.packages = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def call(self, program: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        # The variables that tell this process where modules are, how to test and what to measure do not apply there.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYT", "COV"))}
        programs = self.directory / "venv" / "bin"
        environ["PATH"] = os.pathsep.join([str(programs), os.environ["PATH"]])
        command = [programs / program, *arguments]  # an absolute path stays what it is
        return subprocess.run(command, cwd=self.elsewhere, env=environ, capture_output=True, text=True)

    def python(self, program: str) -> str:
        return output_of(self.call("python", "-c", program))

    def pip(self, *arguments: str | Path) -> None:
        options = ("--python", self.directory / "venv", "--quiet", "--disable-pip-version-check")
        if arguments[0] == "install":
            arguments = (*arguments, "--no-compile")  # most of Twisted is never imported here
        output_of(self.call(Path(sys.executable), "-m", "pip", *options, *arguments))

    def files_of_ours(self) -> list[str]:
        """Return the files with our name in site-packages, except Python's caches and the plugin cache of Twisted."""
        paths = (path.relative_to(self.packages) for path in self.packages.rglob("*") if path.is_file())
        return [str(path) for path in paths if "proxyprotocol" in str(path) and "__pycache__" not in path.parts]


def output_of(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
