//! Placeholder until the harness is merged.
mod replay;
mod writelog;
