"""`python -m app.cli` is `volley`, also where the script isn't on the path."""

from app.cli import main

if __name__ == "__main__":
    main()
