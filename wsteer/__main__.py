"""`python -m wsteer`, for `torchrun -m wsteer ...` and `accelerate launch -m wsteer ...`."""

from wsteer.cli.main import main

main()
