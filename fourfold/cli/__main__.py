"""`python -m fourfold.cli`, which `torchrun -m` and `accelerate launch -m` take too."""

from fourfold.cli.main import main

if __name__ == "__main__":
    main()
