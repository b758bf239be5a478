"""Where a consumer puts files."""

from nearfar.download.store.draft import Draft
from nearfar.download.store.errors import StoreError
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store

__all__ = ["Draft", "Listing", "Store", "StoreError"]
