"""The demo as a file: `python demo/app.py`, with the options of `hfaudio demo`. A Space runs it as well."""

import sys

from hfaudio.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
