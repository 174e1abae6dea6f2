"""Train, evaluate and report facial expression recognition; see README.md for what each module does."""

import os
from pathlib import Path

_here = Path(__file__).resolve().parent
if (_here / "study").is_dir():
    # Installed from a wheel: a repository around the environment is somebody else's, and its commit not this code's.
    os.environ["GIT_CEILING_DIRECTORIES"] = os.pathsep.join(
        filter(None, [str(_here), os.environ.get("GIT_CEILING_DIRECTORIES")])
    )
