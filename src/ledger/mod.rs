//! The durable connection ledger: append-only segments that survive crashes, full disks and outages.
