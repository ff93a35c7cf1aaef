"""``python -m headclip_med`` is ``headclip-med``."""

from headclip_med.cli import main

if __name__ == "__main__":
    main()
