"""A small FastAPI and SQLAlchemy service that keeps the promises of the performance guide.

Each mistake that the guide warns of is kept as a *trap*: off by default, switched on by name
(see :mod:`sample_app.core.traps`), so that a performance test can prove that it would notice.
"""
