"""Many machines: workers that share an account and its journals in PostgreSQL, by Procrastinate's queue."""
