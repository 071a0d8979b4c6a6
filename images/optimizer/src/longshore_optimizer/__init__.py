"""The optimizer of Longshore: fetch, verify, convert, measure, choose, store."""
