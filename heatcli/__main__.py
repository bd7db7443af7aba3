"""`python -m heatcli`."""

from heatcli.cli.app import main

if __name__ == "__main__":
    main()
