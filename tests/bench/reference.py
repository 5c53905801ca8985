"""Where the reference photos lie, and what a bench says where they are not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SHARED = Path(os.environ.get("DSG_SHARED", Path(__file__).parents[3] / "shared"))
PHOTOS = SHARED / "facedata" / "photos"


NO_BFLOAT16 = "bfloat16: passed over; this processor computes it in software, many times slower than float32"


def need_photos(photos: Path = PHOTOS) -> None:
    """Ends the bench, with a line and in peace, where there are no reference photos: a fresh clone has none."""
    if not photos.is_dir():
        print(
            f"skipped: needs the reference photos (faces of the Face Research Lab London set among them) in {photos}; "
            "set DSG_SHARED to the folder that holds facedata/."
        )
        sys.exit(0)
