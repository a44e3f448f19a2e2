"""Uploads in pieces, before anything is made of them."""

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, Created, new_id


class Upload(Base):
    """A file on its way in pieces; its bytes so far lie in `settings.uploads`."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("up"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    file_name: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)  # bytes, as declared
    received: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes
    created_at: Mapped[Created]
    touched_at: Mapped[Created]
