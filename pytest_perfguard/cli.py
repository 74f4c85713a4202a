"""The ``perfguard`` command."""


def main() -> int:
    return 0
