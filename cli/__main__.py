"""``python -m gradscope.cli``, for ``torchrun -m``."""

from gradscope.cli import main

main()
