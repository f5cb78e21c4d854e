"""``python -m compression.cut FILE``: write the best smaller model that is inside a saved one."""

from __future__ import annotations

import os

import click

from compression.byte_amounts import parse_bytes
from compression.nested import cut_bytes
from compression.opened import open_file
from compression.show import fail


@click.command(context_settings={"max_content_width": 100})
@click.argument("file")
@click.option(
    "--max-bytes", "max_bytes", metavar="SIZE", required=True, help="Such as 200kB or 1.2MB."
)
@click.option("--output", metavar="FILE2", required=True, help="Where the smaller model goes.")
def main(file: str, max_bytes: str, output: str) -> None:
    """Write the best model inside FILE that has at most so many bytes.

    Layers go down to what their stored form contains: lower ranks, fewer passes, fewer bits. It
    loads as ``load(FILE, model, max_bytes=...)`` does, bit for bit, and needs no architecture.

    Exit codes: 0 written, 2 the input is wrong.
    """
    try:
        data = cut_bytes(open_file(file), int(parse_bytes(max_bytes)))
        aside = f"{output}.part"
        with open(aside, "wb") as written:
            written.write(data)
        os.replace(aside, output)
    except (ValueError, OSError) as error:
        fail(error)
    click.echo(f"{output}: {len(data)} bytes")


if __name__ == "__main__":
    main()
