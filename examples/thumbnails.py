"""Thumbnails of a folder of pictures, by the processes of this machine or by the workers of many.

    python thumbnails.py pictures thumbnails                               # near: one process for each CPU
    python thumbnails.py pictures thumbnails --pool tcp://127.0.0.1:5556   # far: all workers of a coordinator

The bytes of the pictures travel to the workers and back, so no machine but this one needs the folder.
Workers need Pillow (`pip install pillow`), and not this file: its function is sent to them. `imap` reads a
bounded number of files ahead, so a folder of any size needs little memory.
"""

import argparse
import io
from pathlib import Path

from nearfar import Pool


def thumbnail(picture: bytes) -> bytes:
    """The small picture, as PNG."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        image.thumbnail((64, 64))
        small = io.BytesIO()
        image.convert("RGB").save(small, "PNG")
    return small.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write a thumbnail of each picture")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("thumbnails", type=Path)
    parser.add_argument("--pool", metavar="ADDRESS", help="the coordinator whose workers do it")
    options = parser.parse_args()
    options.thumbnails.mkdir(parents=True, exist_ok=True)
    pictures = sorted(path for path in options.pictures.iterdir() if path.is_file())
    made = 0
    with Pool.connect(options.pool) if options.pool else Pool() as pool:
        results = pool.imap(thumbnail, (picture.read_bytes() for picture in pictures), timeout=60)
        for picture in pictures:
            try:
                small = next(results)
            except Exception as error:  # Pillow's; TaskTimeout; WorkerLost: this picture killed its worker
                print(f"{picture.name}: {error}")
                continue
            (options.thumbnails / picture.name).with_suffix(".png").write_bytes(small)
            made += 1
    print(f"{made} thumbnails, {len(pictures) - made} failed")
