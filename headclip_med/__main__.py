"""``python -m headclip_med`` is ``headclip-med``."""

from headclip_med.cli.main import main

if __name__ == "__main__":
    main()
