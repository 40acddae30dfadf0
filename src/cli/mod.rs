//! Arguments, then rendering (text, json).
