"""acctops: bulk account operations for TencentDB for PostgreSQL."""

__version__ = "0.1.0"
