//! The worker against servers that mean it no good.
