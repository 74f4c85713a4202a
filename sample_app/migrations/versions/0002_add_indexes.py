"""Add the performance indexes.

``idx_resource_status_created`` serves the commonest listing, "newest of this status first":
SQL needs a prefix of an index's columns, so it serves no query that does not filter on status.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import context, op

from sample_app.broken import left_out_indexes, ordered_columns
from sample_app.core.traps import Traps

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = (
    ("idx_user_email", "users", ["email"], True),
    ("idx_resource_owner", "resources", ["owner_id", "created_at"], False),
    ("idx_resource_status_created", "resources", ["status", "created_at"], False),
)


def upgrade() -> None:
    """Apply this step."""
    traps = context.config.attributes.get("traps", Traps())
    left_out = left_out_indexes(traps)
    for name, table, columns, unique in INDEXES:
        if name not in left_out:
            op.create_index(name, table, ordered_columns(traps, name, columns), unique=unique)


def downgrade() -> None:
    """Take this step back."""
    for name, table, _columns, _unique in reversed(INDEXES):
        op.drop_index(name, table_name=table, if_exists=True)
