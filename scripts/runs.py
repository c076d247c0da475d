import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed
from gloss.cli.entry import runs

if __name__ == "__main__":
    sys.exit(runs())
