"""The two databases: station.db (events, outbox, coverage) and the log. `docs/schema.md` has both.

station_db, log_db    what is written and read back, one class each
writer                the thread that alone writes station.db
query, coverage_query, picture_query
                      questions that people ask
backup                dated copies
database, sqlite      opening, transactions; schema, migrations: bringing the tables up to date
"""
