"""The endpoint on users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, status

from sample_app.api.deps import ReadSession, Users
from sample_app.schemas.common import NOT_FOUND
from sample_app.schemas.resource import UserRead

router = APIRouter(prefix="/api/users", tags=["users"])

# PostgreSQL takes no NUL character.
Email = Annotated[str, Query(min_length=3, max_length=320, pattern=r"^[^\x00]*$")]


@router.get("/by-email", responses=NOT_FOUND)
def get_user_by_email(db: ReadSession, crud: Users, email: Email) -> UserRead:
    """Show the user with an address, written in any case."""
    user = crud.get_by_email(db, email)
    if user is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such user")
    return UserRead.model_validate(user)
