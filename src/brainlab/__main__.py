"""``python -m brainlab`` is ``brainlab``."""

from brainlab.cli import main

if __name__ == "__main__":
    main()
