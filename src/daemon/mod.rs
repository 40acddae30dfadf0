//! The wiring and the one event loop.
