"""`python -m orchestration` is `biomass`: what `ray job submit` runs where no console script is on the path."""

from orchestration.cli import main

if __name__ == "__main__":
    main()
