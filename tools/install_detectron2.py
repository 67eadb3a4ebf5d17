#!/usr/bin/env python3
"""Install Detectron2 into the environment of the Python that runs this file.

Already importable: nothing is done. Otherwise the official source at a pinned commit is built
(PyTorch must be installed; takes minutes); where that cannot be reached, the copy that a wheel on
the package index carries is checked and installed (seconds, without the C++ extension, which this
project does not need). The result is a distribution named detectron2 that pip lists and removes.

Examples:
    python tools/install_detectron2.py
    python tools/install_detectron2.py --source wheel --build-wheel wheels/   # to carry elsewhere
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _detectron2_wheel import PINNED, REQUIREMENTS, CarrierWheel, InstallError, wheel_from_carrier

GIT_URL = "https://github.com/facebookresearch/detectron2.git"
# The last commit before Detectron2's Cityscapes code imports a module that only exists in Meta.
# A commit's id names its content, so the pin is also the check of the official source.
GIT_COMMIT = "c69939aa85460e8135f40bce908a6cddaa73065f"
PROBE_TIMEOUT_S = 10
PIP_TIMEOUT_S = 1800
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
IMPORT_CHECK = "import detectron2.config, detectron2.layers, detectron2.modeling"


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


def source_of(version: str, direct_url: str | None) -> str:
    """Name the source of an installed Detectron2 from its version and pip's direct_url.json."""
    if version == PINNED.detectron2_version:
        return f"copy in {PINNED.name} {PINNED.version} (no C++ extension)"
    if direct_url and GIT_COMMIT in direct_url:
        return f"official source at {GIT_COMMIT[:8]}"
    return "installed by other means"


def describe_installed() -> str | None:
    """Version and source of the Detectron2 that this Python imports, None where there is none.

    An installation that was cut off (files without the RECORD that pip writes last) counts as none.
    """
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    try:
        distribution = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        if "site-packages" in spec.origin:
            return None
        version, source = "?", f"a checkout at {Path(spec.origin).parent}"
    else:
        if distribution.read_text("RECORD") is None:
            return None
        version = distribution.version
        source = source_of(version, distribution.read_text("direct_url.json"))
    check = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_CHECK], capture_output=True, check=False
    )
    return f"detectron2 {version}, {source}" if check.returncode == 0 else None


class Pip:
    """pip of the running Python, its output in a log file.

    Args:
        log: file that the output is appended to; None prints it.
        target: folder to install into instead of the environment; None for the environment.
    """

    def __init__(self, log: Path | None, target: Path | None) -> None:
        self.log = log
        self.target = target

    def __call__(self, command: str, *arguments: str) -> None:
        """Run `pip <command> <arguments>`.

        Raises:
            InstallError: pip fails or takes longer than PIP_TIMEOUT_S.
        """
        environment = os.environ | {
            "GIT_TERMINAL_PROMPT": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        call = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        call += [command, *arguments]
        try:
            result = subprocess.run(
                call,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PIP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"pip {command} took longer than {PIP_TIMEOUT_S} s") from error
        self._keep(result.stdout)
        if result.returncode:
            errors = [line for line in result.stdout.splitlines() if line.startswith("ERROR")]
            reason = errors[-1] if errors else f"exit status {result.returncode}"
            where = f" (log: {self.log})" if self.log else ""
            raise InstallError(f"pip {command} failed: {reason}{where}")

    def install(self, *arguments: str) -> None:
        """`pip install` into the target with the project's constraints, if the file is there."""
        constraints = ["-c", str(CONSTRAINTS)] if CONSTRAINTS.is_file() else []
        into = ["--target", str(self.target), "--upgrade"] if self.target else []
        self("install", *constraints, *into, *arguments)

    def _keep(self, text: str) -> None:
        if self.log is None:
            sys.stderr.write(text)
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(text)


def git_source_problem() -> str | None:
    """Why the official source cannot be had here, None where it can."""
    call = ["git", "ls-remote", "--exit-code", GIT_URL, "HEAD"]
    try:
        result = subprocess.run(
            call,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return "git is not installed"
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_TIMEOUT_S} s"
    if result.returncode:
        return "cannot be reached"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch must be installed before it can be built"
    return None


def install_from_git(pip: Pip) -> None:
    """Build and install the official source at the pinned commit.

    `--no-deps`, because its own list excludes the iopath that was tested; `main` installs
    REQUIREMENTS. `--no-build-isolation`, because its setup.py imports the installed PyTorch.
    """
    say(f"detectron2: building the official source at {GIT_COMMIT[:8]} (2-3 minutes)")
    requirement = f"detectron2 @ git+{GIT_URL}@{GIT_COMMIT}"
    pip.install("--no-deps", "--no-build-isolation", "--force-reinstall", requirement)


def download_carrier(pip: Pip, folder: Path, carrier: CarrierWheel = PINNED) -> Path:
    """Download the carrying wheel from the package index; pip compares its SHA-256.

    Raises:
        InstallError: the download fails or its SHA-256 differs.
    """
    pinned = folder / "carrier.txt"
    pinned.write_text(f"{carrier.name}=={carrier.version} --hash=sha256:{carrier.sha256}\n")
    # The wheel declares an older Python and heavy requirements; only its files are wanted.
    pip(
        "download",
        *("--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--require-hashes"),
        *("-d", str(folder), "-r", str(pinned)),
    )
    return next(folder.glob("*.whl"))


def install_from_wheel(pip: Pip, carrier_file: Path | None, build_only: Path | None) -> None:
    """Install, or only build, Detectron2 from the wheel that carries it.

    Args:
        pip: runs pip.
        carrier_file: a carrying wheel already at hand; None downloads it.
        build_only: folder that the Detectron2 wheel is written to instead of being installed.

    Raises:
        InstallError: no download, or a digest differs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if carrier_file is None:
            say(f"detectron2: fetching {PINNED.name} {PINNED.version}, a wheel that carries a copy")
            carrier_file = download_carrier(pip, folder)
        wheel = wheel_from_carrier(carrier_file, build_only or folder / "built")
        say("detectron2: SHA-256 of the wheel and of the Detectron2 files in it are as pinned")
        if build_only:
            say(f"detectron2: wrote {wheel}")
        else:
            pip.install("--no-deps", "--force-reinstall", "--no-index", str(wheel))


def install(args: argparse.Namespace) -> None:
    """Do what the command line asks for; see `parse_args`.

    Raises:
        InstallError: neither source could be installed.
    """
    pip = Pip(args.log, args.target)
    if not args.build_wheel and not args.no_requirements:
        say("detectron2: installing its requirements")
        pip.install(*REQUIREMENTS)
    if args.source == "git":
        install_from_git(pip)
        return
    if args.source == "auto" and not args.build_wheel and not args.carrier:
        problem = git_source_problem()
        if problem is None:
            try:
                install_from_git(pip)
                return
            except InstallError as error:
                problem = str(error)
        say(f"detectron2: official source not used: {problem}")
    install_from_wheel(pip, args.carrier, args.build_wheel)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with exit status 2."""
    parser = argparse.ArgumentParser(description="Install Detectron2.", epilog="See the file.")
    parser.add_argument("--source", choices=("auto", "git", "wheel"), default="auto")
    parser.add_argument("--carrier", type=Path, help="a carrying wheel already downloaded")
    parser.add_argument("--build-wheel", type=Path, help="only write the Detectron2 wheel there")
    parser.add_argument("--target", type=Path, help="install into this folder (pip --target)")
    parser.add_argument("--no-requirements", action="store_true", help="Detectron2 alone")
    parser.add_argument("--log", type=Path, help="file for the output of pip")
    parser.add_argument("--list-requirements", action="store_true", help="print them and end")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    """Install Detectron2 as `args` says and print one line with the source; 0 on success."""
    if args.list_requirements:
        print("\n".join(REQUIREMENTS))
        return 0
    elsewhere = args.target or args.build_wheel
    installed = None if elsewhere else describe_installed()
    if installed:
        say(f"{installed}: already there, nothing to do")
        return 0
    try:
        install(args)
    except InstallError as error:
        say(f"FAILED: Detectron2: {error}")
        return 1
    if elsewhere:
        return 0
    installed = describe_installed()
    if installed is None:
        say(f"FAILED: Detectron2: installed, but `{IMPORT_CHECK}` does not work")
        return 1
    say(f"{installed}: installed")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
