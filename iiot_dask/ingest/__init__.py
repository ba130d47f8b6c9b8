"""Stage 3, ingest: what many adapters deliver becomes one durable, ordered flow.

In: deliveries (tags, rows under local numbers, events, a position). Out: journal records under plant-wide tag numbers,
and an acknowledgement once they are on disk. What can not be used goes to quarantine, counted by reason.
"""
