"""The commands of ``perfguard``, one file for each: ``register`` adds it to the parser."""
