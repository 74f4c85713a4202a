"""Users: who may be looked up."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from sample_app.models import User


class CRUDUser:
    """Users, found by what they are known by."""

    def get_by_email(self, db: Session, email: str) -> User | None:
        """Get the user with an address; it is stored in lower case, so its index serves."""
        return db.scalar(select(User).where(User.email == email.lower()))
