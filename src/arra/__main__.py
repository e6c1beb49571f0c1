"""`python -m arra` is the program `arra`."""

from arra.cli import main

if __name__ == "__main__":
    main()
