"""Fixtures every room's tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_samples() -> Path:
    """Small pieces of the real datasets. Never shipped with the project: absent means skip."""
    root = Path(os.environ.get("SURGR1_REAL_SAMPLES", ROOT.parent / "shared" / "real-samples"))
    if not root.is_dir():
        pytest.skip(f"no real samples at {root}; SURGR1_REAL_SAMPLES names their folder")
    return root
